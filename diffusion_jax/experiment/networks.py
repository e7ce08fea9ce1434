"""The network of a config, and what it is told."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import NEED_CHAIN, choose, options
from diffusion_jax.networks.encoder import Encoder
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.multiscale import MultiScale
from diffusion_jax.networks.ncsn import NCSN
from diffusion_jax.networks.ncsnpp import NCSNpp
from diffusion_jax.networks.rbf import RBF
from diffusion_jax.networks.sequence_mlp import SequenceMLP
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import VDMUNet
from diffusion_jax.objective import prediction

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "ncsnpp": NCSNpp,
    "ncsn": NCSN,
    "ncsnv2": NCSN,
    "vdm": VDMUNet,
    "mlp": MLP,
    "rbf": RBF,
    "sequence_mlp": SequenceMLP,
    "multiscale": MultiScale,
    "encoder": Encoder,
}


BY_STEP = ("rbf", "sequence_mlp", "multiscale", "ncsn")
"""Networks with parameters for each step, which so have to know how many there are."""


WITHOUT_LABELS = (*BY_STEP, "ncsnv2")


TELLINGS: dict[str, Callable[..., prediction.Conditioning]] = {
    "step": prediction.step_conditioning,
    "time": prediction.time_conditioning,
    "logsnr": prediction.logsnr_conditioning,
    "log_sigma": prediction.log_sigma_conditioning,
}


INPUTS: dict[str, Callable[..., prediction.InputScale] | None] = {
    "as_it_is": None,
    "unit_variance": prediction.unit_variance,
}


def network(config: ConfigDict, out_channels: int) -> Any:
    """The network of a config, a linen module."""
    name, network_options = config.network.name, options(config.network)
    if name in BY_STEP:
        network_options["num_steps"] = config.process.num_steps
        if config.network.told != "step":
            raise ValueError(f"network.name={name!r} has parameters for each step: set network.told=step")
    if name in WITHOUT_LABELS and config.network.conditional:
        raise ValueError(f"network.name={name!r} takes no labels: set network.conditional=False")
    if name not in ("mlp", "rbf", "sequence_mlp", "multiscale"):
        network_options["remat"] = config.remat
    return choose("network.name", name, NETWORKS)(
        out_channels=out_channels,
        num_classes=config.data.classes if config.network.conditional else 0,
        **network_options,
    )


def telling(config: ConfigDict) -> prediction.Conditioning:
    """What the network is told about time."""
    name, steps = config.network.told, config.process.num_steps
    tell = choose("network.told", name, TELLINGS)
    if name == "step" and not steps:
        raise ValueError(f"network.told='step' needs {NEED_CHAIN}")
    return tell(steps) if name == "step" else tell()


def input_scale(config: ConfigDict) -> prediction.InputScale | None:
    """By what the network's input is multiplied, if by anything."""
    scale = choose("prediction.input", config.prediction.input, INPUTS)
    return scale(config.prediction.sigma_data) if scale else None
