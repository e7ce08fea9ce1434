"""The network of a config, its conditioning and the scaling of its input."""

import inspect
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import Given, choose, make, options
from diffusion_jax.networks import convolutions
from diffusion_jax.networks.registry import NETWORKS
from diffusion_jax.objective import prediction

CONDITIONINGS: dict[str, Callable[..., prediction.Conditioning]] = {
    "step": prediction.step_conditioning,
    "time": prediction.time_conditioning,
    "logsnr": prediction.logsnr_conditioning,
    "log_sigma": prediction.log_sigma_conditioning,
}


INPUT_SCALINGS: dict[str, Callable[..., prediction.InputScale]] = {
    "unit_variance": prediction.unit_variance,
}


def network(config: ConfigDict, out_channels: int) -> Any:
    """Return the network of a config, a linen module. Raises ValueError where name, options and data do not fit."""
    section = config.network
    factory = choose("network.name", section.name, NETWORKS)
    takes = set(inspect.signature(factory).parameters)
    own = isinstance(section.name, Given) or section.name not in NETWORKS
    if "num_steps" in takes and section.conditioning != "step":
        raise ValueError(f"network.name={section.name!r} has parameters for each step: set network.conditioning=step")
    if section.conditional and not own and "num_classes" not in takes:
        raise ValueError(f"network.name={section.name!r} takes no labels: set network.conditional=False")
    classes = config.data.classes if section.conditional else 0
    provided = {"out_channels": out_channels, "num_classes": classes, "remat": config.remat}
    return make(
        "network.name", section.name, NETWORKS, options(section), num_steps=config.process.num_steps, **provided
    )


def forward(network: Any) -> prediction.NetworkApply:
    """Return the forward pass of a network, with the faster convolutions where it is compiled for a CPU."""
    return convolutions.fast(network.apply)


def conditioning(config: ConfigDict) -> prediction.Conditioning:
    """Return the function of the noise level that the network is conditioned on."""
    name = config.network.conditioning
    steps = config.process.num_steps
    made: prediction.Conditioning = make("network.conditioning", name, CONDITIONINGS, {}, num_steps=steps)
    return made


def input_scale(config: ConfigDict) -> prediction.InputScale | None:
    """Return the factor of the network's input as a function of the noise level; None for 1."""
    name = config.prediction.input_scaling
    if name == "none":
        return None
    table = {"none": None, **INPUT_SCALINGS}
    sigma_data = config.prediction.sigma_data
    made: prediction.InputScale = make("prediction.input_scaling", name, table, {}, sigma_data=sigma_data)
    return made
