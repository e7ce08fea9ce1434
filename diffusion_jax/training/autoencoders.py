"""The autoencoder of a latent diffusion.

It is read from its run once, then kept in the run directory of the diffusion.
"""

import json
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import files
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import generators, latents, objectives
from diffusion_jax.experiment.choices import Instance
from diffusion_jax.training import checkpoints, state

FILE = "autoencoder.npz"
"""Weights, config and scale of the autoencoder, in the run directory."""
MEASURED = 2000
"""Training examples whose latents give the scale."""


def attach(config: ConfigDict, workdir: str = "", train: Source | None = None, verify: bool = True) -> ConfigDict:
    """Return the config with the autoencoder of latent.workdir opened; without one the config itself.

    workdir: the run directory that has its own copy; "": read latent.workdir. train: training data to measure the scale
    of the latents on; None: 1. Raises FileNotFoundError or ValueError where there is no such run, it holds no
    autoencoder, or it does not suit the config.
    """
    if not config.latent.workdir:
        return config
    found = read(files.place_of(workdir) / FILE) if workdir else of_run(config, verify)
    latents.check(config, found)
    if train is not None and found.scale == 0:
        found = found._replace(scale=measured(config, found._replace(scale=1.0), train))
    config = config.copy_and_resolve_references()
    configs.put(config, "latent.autoencoder", Instance(found._replace(scale=found.scale or 1.0), FILE))
    return config


def of_run(config: ConfigDict, verify: bool = True) -> latents.Autoencoder:
    """Return the autoencoder of the run latent.workdir, with scale 0. Raises FileNotFoundError or ValueError."""
    where, step, ema = config.latent.workdir, config.latent.step, config.latent.ema
    try:
        theirs = configs.merge(checkpoints.read_config(where, step, verify))
        facts = objectives.loss_facts(theirs)
        ema = ema or state.first_average(theirs)
        weights = checkpoints.restore_weights(where, step, ema, verify)
    except (OSError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"latent.workdir={where}: {error}") from error
    if not facts.autoencoder:
        raise ValueError(
            f"latent.workdir={where}: holds no autoencoder (got loss.name={theirs.loss.name!r}). Name a run with "
            "loss.name=elbo"
        )
    return latents.Autoencoder(theirs, {"net": weights["net"]}, 0.0)


def measured(config: ConfigDict, autoencoder: latents.Autoencoder, train: Source) -> float:
    """Return 1 / the standard deviation of the latents of MEASURED training examples."""
    encode = jax.jit(latents.encoder(config, autoencoder))
    some = subset(train, MEASURED)
    parts = []
    for rows in np.array_split(np.arange(some.size), max(1, some.size // 100)):
        keys = jax.random.split(jax.random.key(0), len(rows))
        parts.append(np.asarray(encode(some.read(rows)[0], keys), np.float64).ravel())
    std = float(np.concatenate(parts).std())
    if not 0 < std < float("inf"):
        raise ValueError(
            f"latent.workdir={config.latent.workdir}: the standard deviation of its latents must be finite and above 0 "
            f"(got {std}). Train the autoencoder longer, or with a smaller loss.elbo.beta"
        )
    return 1 / std


def same(config: ConfigDict, other: ConfigDict, workdir: str) -> bool:
    """Return True if two runs have the same autoencoder, or both none. workdir: the run directory of `other`."""
    ours = latents.opened(config)
    if ours is None or not other.latent.workdir:
        return ours is None and not other.latent.workdir
    theirs = read(files.place_of(workdir) / FILE)
    ours_flat, theirs_flat = (traverse_util.flatten_dict(jax.device_get(found.params)) for found in (ours, theirs))
    return (
        bool(np.isclose(ours.scale, theirs.scale, rtol=1e-2))  # measured on each machine
        and ours_flat.keys() == theirs_flat.keys()
        and all(np.array_equal(ours_flat[path], theirs_flat[path]) for path in ours_flat)
    )


def write(path: epath.PathLike, config: ConfigDict) -> None:
    """Write the opened autoencoder of a config. Raises OSError."""
    found = latents.opened(config)
    assert found is not None
    arrays: dict[str, Any] = traverse_util.flatten_dict(jax.device_get(found.params), sep="/")
    text = json.dumps(configs.plain(found.config))
    files.save_npz(path, {**arrays, "config": np.array(text), "scale": np.float64(found.scale)})


def read(path: epath.Path) -> latents.Autoencoder:
    """Read the autoencoder that `write` wrote. Raises ValueError for a missing or damaged file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            stored = dict(arrays)
        text, scale = str(stored.pop("config")), float(stored.pop("scale"))
        config = configs.merge(json.loads(text))
    except Exception as error:
        raise ValueError(f"{path}: missing or damaged ({error}). Copy it from where the run was trained") from error
    generators.autoencoder(config)
    return latents.Autoencoder(config, traverse_util.unflatten_dict(stored, sep="/"), scale)
