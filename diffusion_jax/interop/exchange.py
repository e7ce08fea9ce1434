"""Import other projects' weights as run directories, and export runs.

An imported model is step 0 of a run: `sample` and `evaluate` read it, and `train` with the same config continues it.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from diffusion_jax.experiment import sources, wiring
from diffusion_jax.experiment.objectives import loss_facts
from diffusion_jax.experiment.paths import variance_facts
from diffusion_jax.interop import ddpm_tf1, diffusers, diffusers_folder, diffusers_options, fit
from diffusion_jax.networks import parameters
from diffusion_jax.networks.unet import UNet
from diffusion_jax.training import checkpoints, state

TAKEN = (
    *("channels", "multipliers", "blocks", "attention", "heads", "head_channels", "groups", "dropout"),
    *("norm_eps", "downsample_padding", "freq_shift", "cos_first"),
)
"""Options of the U-Net that come from the model of diffusers."""


def from_diffusers(config: ConfigDict, path: str, workdir: str) -> dict[str, Any]:
    """Import a saved UNet2DModel as a run directory.

    The model determines the network, the shape and classes of the data and, if it has a scheduler, the chain. All other
    keys are taken from the config, including the levels of the data (if it has none, those of its data, or 256). Where
    network.label_dropout of the config is above 0, the last class embedding of the model means "no label". Raises
    ValueError or OSError before anything is written.
    """
    check_vacant(workdir)
    folder = diffusers_folder.find(path)
    read: list[Any] = []
    faults: list[str] = []
    for reader in (diffusers_options.read_unet, diffusers_options.read_scheduler):
        try:
            read.append(reader(folder))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    (unet, shape), (scheduler, chain) = read
    config = config.copy_and_resolve_references()
    dropout = config.network.label_dropout if unet.num_classes else 0.0
    classes = unet.num_classes - (dropout > 0)
    with config.unlocked():
        config.network.update(name="unet", conditional=classes > 0, label_dropout=dropout, conditioning="step")
        config.network.unet.update({name: getattr(unet, name) for name in TAKEN})
        config.data.update(shape=shape, **_levels_and_classes(config, shape, classes))
        config.update_from_flattened_dict(chain)
        _fit_variance(config, unet.out_channels > shape[-1], bool(chain))
    experiment = wiring.build(config)
    net = diffusers.to_flax(diffusers_folder.read_tensors(folder), network(experiment), shape)
    figures = start(workdir, config, experiment, net, net)
    return figures | {"scheduler": str(scheduler) if scheduler else None}


def _levels_and_classes(config: ConfigDict, shape: tuple[int, ...], classes: int) -> dict[str, int]:
    """Return levels and classes for the data of an imported model.

    They are those of the config's data, if these can be read and have the model's shape. Otherwise there are 256
    levels, unless the config says others. A model with classes keeps its own.
    """
    found = {"levels": config.data.levels or 256, "classes": classes or config.data.classes}
    try:
        train = sources.source(config, "train")
    except (ValueError, OSError, ImportError):
        return found
    if train.shape != shape:
        return found
    return {"levels": config.data.levels or train.levels, "classes": classes or train.classes}


def _fit_variance(config: ConfigDict, learned: bool, chain: bool) -> None:
    """Set the variance of a config for a model without a scheduler. Raises ValueError if a scheduler differs."""
    variance = config.prediction.variance
    if chain and learned != (variance == diffusers_options.LEARNED):
        raise ValueError(
            f"out_channels: a model with {'twice' if learned else 'only'} the channels of its input does not fit "
            f"variance_type={variance!r} of its scheduler. Twice the channels go with {diffusers_options.LEARNED!r}"
        )
    if learned:
        config.prediction.variance = diffusers_options.LEARNED
        if not loss_facts(config).trains_variance:  # the head is trained by a bound alone
            config.loss.name = "hybrid"
    elif variance_facts(config).head:
        config.prediction.variance = "fixed_large"
        if loss_facts(config).head:
            config.loss.name = "simple"


def from_ddpm_tf1(config: ConfigDict, path: str, workdir: str) -> dict[str, Any]:
    """Import a checkpoint of the code of Ho et al. 2020, for the network of the config.

    All averages are set to the average of the checkpoint, or to its parameters if it has no average. Raises ValueError
    or OSError before anything is written.
    """
    check_vacant(workdir)
    for key, value, needed in (
        ("network.name", config.network.name, "unet"),
        ("network.conditioning", config.network.conditioning, "step"),
        ("network.conditional", config.network.conditional, False),
        ("network.unet.heads", config.network.unet.heads, 1),
    ):
        if value != needed:
            raise ValueError(f"{key}={value!r}: the public code of Ho et al. 2020 has {needed!r}. Use that")
    shape = tuple(config.data.shape)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.levels = config.data.levels or 256
        config.network.unet.groups = fit.with_groups(network(wiring.build(config)), shape, ddpm_tf1.GROUPS).groups
    experiment = wiring.build(config)
    net, average = ddpm_tf1.read(path, network(experiment), shape)
    return start(workdir, config, experiment, net, average or net) | {"averaged": average is not None}


def to_diffusers(config: ConfigDict, params: Any, path: str) -> dict[str, Any]:
    """Write parameters as a folder that diffusers loads.

    Raises ValueError that names every obstacle of network and chain, or OSError, before anything is written.
    """
    diffusers_folder.check_vacant(path)
    shape = tuple(config.data.shape)
    if config.latent.workdir:
        raise ValueError("latent.workdir: a model of latents cannot be exported, as its autoencoder has no counterpart")
    experiment = wiring.build(config)
    found: list[dict[str, Any]] = []
    faults: list[str] = []
    for describe in (
        lambda: diffusers_options.describe_unet(network(experiment), shape),
        lambda: diffusers_options.describe_scheduler(config.to_dict()),
    ):
        try:
            found.append(describe())
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(f"export: {'; '.join(faults)}")
    (described, scheduler), unet = found, network(experiment)
    check_finite(params["net"])
    tensors = diffusers.from_flax(params["net"], unet, shape)
    if config.network.label_dropout:
        described["num_class_embeds"] += 1
    elif unet.num_classes:  # the row of "no label" was never trained
        tensors[diffusers.LABELS] = tensors[diffusers.LABELS][:-1]
    diffusers_folder.write(path, described, scheduler, tensors)
    return {"path": path, **sizes(params)}


def check_vacant(workdir: str) -> None:
    """Raise ValueError if a run directory has checkpoints."""
    kept = checkpoints.steps(workdir)
    if kept:
        raise ValueError(f"--workdir={workdir}: has checkpoints, the newest of step {kept[-1]}. Use another directory")


def check_finite(net: dict[str, Any]) -> None:
    """Raise ValueError, naming the first tensors, if weights are not finite."""
    parameters.check_finite("weights", traverse_util.flatten_dict(net, sep="/"), "Use the weights of an earlier step")


def network(experiment: wiring.Experiment) -> UNet:
    """Return the network of an experiment. Raises ValueError unless it is a U-Net."""
    if not experiment.process.gaussian:
        raise ValueError("process.name: only gaussian can be imported and exported")
    if not isinstance(experiment.network, UNet):
        raise ValueError(
            f"network.name: only unet can be imported and exported, not {type(experiment.network).__name__}"
        )
    return experiment.network


def start(
    workdir: str, config: ConfigDict, experiment: wiring.Experiment, net: dict[str, Any], average: dict[str, Any]
) -> dict[str, Any]:
    """Write step 0 of a run with these weights; `average` is the value of every average."""
    for tree in (net, average):
        check_finite(tree)
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
    """Return the number of parameters and of tensors."""
    leaves = jax.tree.leaves(params)
    return {"parameters": sum(int(np.size(leaf)) for leaf in leaves), "tensors": len(leaves)}
