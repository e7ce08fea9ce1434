"""Weights from elsewhere and back: what joins the formats of interop with configs and workdirs.

An imported model is step 0 of a run: `sample` and `evaluate` read it, and `train` with the same config goes on from it.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.experiment import wiring
from diffusion_jax.interop import ddpm_tf1, diffusers, diffusers_folder, diffusers_options, fit
from diffusion_jax.networks.unet import UNet
from diffusion_jax.training import checkpoints, state

TAKEN = ("channels", "multipliers", "blocks", "attention", "heads", "groups", "dropout")
"""Options of the U-Net that a model of diffusers brings along."""


def from_diffusers(config: ConfigDict, path: str, workdir: str) -> dict[str, Any]:
    """Make a workdir of a saved UNet2DModel.

    The network, the shape of the data and, where the model has a scheduler, the chain are the model's; the rest is the
    config's, also the levels of the data (256 if it has none). Raises ValueError or OSError, and then writes nothing.
    """
    check_vacant(workdir)
    folder = diffusers_folder.find(path)
    unet, shape = diffusers_options.read_unet(folder)
    scheduler, chain = diffusers_options.read_scheduler(folder)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.network.update(name="unet", conditional=False, conditioning="step")
        config.network.unet.update({name: getattr(unet, name) for name in TAKEN})
        config.data.update(shape=shape, levels=config.data.levels or 256)
        config.update_from_flattened_dict(chain)
    experiment = wiring.build(config)
    net = diffusers.to_flax(diffusers_folder.read_tensors(folder), network(experiment), shape)
    figures = start(workdir, config, experiment, net, net)
    return figures | {"scheduler": str(scheduler) if scheduler else None}


def from_ddpm_tf1(config: ConfigDict, path: str, workdir: str) -> dict[str, Any]:
    """Make a workdir of a checkpoint of Ho's code, for the network that the config describes.

    All averages are that of the checkpoint, or the parameters where it has none. Raises ValueError or OSError, and then
    writes nothing.
    """
    check_vacant(workdir)
    for key, value, needed in (
        ("network.name", config.network.name, "unet"),
        ("network.conditioning", config.network.conditioning, "step"),
        ("network.conditional", config.network.conditional, False),
        ("network.unet.heads", config.network.unet.heads, 1),
    ):
        if value != needed:
            raise ValueError(f"{key}={value!r} is not what the public code of Ho et al. 2020 has; use {needed!r}")
    shape = tuple(config.data.shape)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.levels = config.data.levels or 256
        config.network.unet.groups = fit.with_groups(network(wiring.build(config)), shape, ddpm_tf1.GROUPS).groups
    experiment = wiring.build(config)
    net, average = ddpm_tf1.read(path, network(experiment), shape)
    return start(workdir, config, experiment, net, average or net) | {"averaged": average is not None}


def to_diffusers(config: ConfigDict, params: Any, path: str) -> dict[str, Any]:
    """Write parameters as a folder that diffusers loads. Raises ValueError or OSError, and then writes nothing."""
    diffusers_folder.check_vacant(path)
    shape = tuple(config.data.shape)
    unet = network(wiring.build(config))
    described = diffusers_options.describe_unet(unet, shape), diffusers_options.describe_scheduler(config.to_dict())
    tensors = diffusers.from_flax(params["net"], unet, shape)
    diffusers_folder.write(path, *described, tensors)
    return {"path": path, **sizes(params)}


def check_vacant(workdir: str) -> None:
    """Raise ValueError if a workdir holds checkpoints already."""
    kept = checkpoints.steps(workdir)
    if kept:
        raise ValueError(
            f"{workdir} holds checkpoints already, the newest of step {kept[-1]}; choose another --workdir"
        )


def network(experiment: wiring.Experiment) -> UNet:
    """The network of an experiment, if it is a U-Net; ValueError otherwise."""
    if not isinstance(experiment.network, UNet):
        raise ValueError("network.name: only a unet has a counterpart elsewhere")
    return experiment.network


def start(
    workdir: str, config: ConfigDict, experiment: wiring.Experiment, net: dict[str, Any], average: dict[str, Any]
) -> dict[str, Any]:
    """Write step 0 of a run that starts with these weights; every average starts as `average`."""
    params, averaged = ({"net": jax.tree.map(jnp.asarray, tree)} for tree in (net, average))
    first = state.create(params, experiment.optimizer, (), experiment.times.init())
    first = dataclasses.replace(first, ema={str(decay): averaged for decay in config.ema.decays})
    manager = checkpoints.open_manager(workdir)
    try:
        checkpoints.save(manager, 0, first, config.to_dict())
    finally:
        manager.close()
    return {"workdir": os.fspath(workdir), **sizes(params)}


def sizes(params: Any) -> dict[str, int]:
    """The number of parameters and of tensors."""
    leaves = jax.tree.leaves(params)
    return {"parameters": sum(int(np.size(leaf)) for leaf in leaves), "tensors": len(leaves)}
