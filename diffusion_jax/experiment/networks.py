"""Network of a config, its conditioning and the scaling of its input."""

import inspect
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.declarations import facts_of
from diffusion_jax.experiment.choices import choose, make, options
from diffusion_jax.networks import adapter, convolutions
from diffusion_jax.networks.registry import NETWORKS
from diffusion_jax.objective import conditionings, prediction


def network(config: ConfigDict, out_channels: int) -> Any:
    """Return the network of a config, a linen module. Raises ValueError where name, options and data do not fit."""
    section = config.network
    factory = choose("network.name", section.name, NETWORKS)
    takes = set(inspect.signature(factory).parameters)
    condition = facts_of(choose("network.conditioning", section.conditioning, conditionings.CONDITIONINGS))
    if "num_steps" in takes and not condition.step_index:
        raise ValueError(f"network.name={section.name!r} has parameters for each step: set network.conditioning=step")
    if section.conditional and factory in NETWORKS.values() and "num_classes" not in takes:
        raise ValueError(f"network.name={section.name!r} takes no labels: set network.conditional=False")
    classes = config.data.classes if section.conditional else 0
    provided = {"out_channels": out_channels, "num_classes": classes, "remat": config.remat}
    provided["data_shape"] = tuple(config.data.shape)
    return make(
        "network.name", section.name, NETWORKS, options(section), num_steps=config.process.num_steps, **provided
    )


def classifier_network(config: ConfigDict) -> Any:
    """Return the network of a classifier, [B,*D] -> logits [B,classes]."""
    classes = config.data.classes
    return adapter.adapt(network(config, classes), classes, classifier=True)


def forward(network: Any) -> prediction.NetworkApply:
    """Return the forward pass of a network, with the faster convolutions on a CPU."""
    return convolutions.fast(network.apply)


def conditioning(config: ConfigDict) -> conditionings.Conditioning:
    """Return the function of the noise level that the network is conditioned on."""
    name = config.network.conditioning
    steps = config.process.num_steps
    made: conditionings.Conditioning = make(
        "network.conditioning", name, conditionings.CONDITIONINGS, {}, num_steps=steps
    )
    return made


def input_scale(config: ConfigDict) -> conditionings.InputScale | None:
    """Return the factor of the network's input by noise level; None for 1."""
    name, sigma_data = config.prediction.input_scaling, config.prediction.sigma_data
    made: conditionings.InputScale | None = make(
        "prediction.input_scaling", name, conditionings.INPUT_SCALINGS, {}, sigma_data=sigma_data
    )
    return made
