"""The data of a config: sources, their range, and the networks that look at them."""

import hashlib
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from diffusion_jax.data import arrays, dead_leaves, embedded, entropies, folder, heartbeat, idx, tfds
from diffusion_jax.data.scaling import dequantised, from_model, to_model
from diffusion_jax.data.source import Source
from diffusion_jax.experiment.choices import make, options
from diffusion_jax.process.base import Array, Schedule, in_float64

IN_MEMORY = "in_memory"
"""Name, in a stored config, of data that were handed over from Python."""
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": embedded.digits,
    "toy2d": embedded.toy2d,
    "heartbeat": heartbeat.heartbeat,
    "dead_leaves": dead_leaves.dead_leaves,
    "arrays": arrays.arrays,
    "folder": folder.folder,
    "idx": idx.idx,
    "tfds": tfds.tfds,
}


SAMPLE_COUNTS: dict[str, Callable[[np.ndarray], dict[str, float]]] = {"heartbeat": heartbeat.count}
"""Of data sets whose every example is known: what can be counted in samples."""


def source(config: ConfigDict, split: str) -> Source:
    """Open a split, "train" or "heldout", of the data; raises ValueError if it is not what config.data says."""
    data = config.data
    if data.name == IN_MEMORY:
        raise ValueError(
            f"data.name={IN_MEMORY!r}: the data of this run were handed over from Python; hand them over again, "
            "dj.load(workdir, data=...)"
        )
    opened: Source = make("data.name", data.name, SOURCES, options(data), split=split)
    if data.shape:
        for field in ("shape", "levels", "classes"):
            said, found = data[field], getattr(opened, field)
            if said != found:
                raise ValueError(
                    f"data.{field}: the config says {said}, but {data.name} has {found}; correct the config"
                )
    return opened


def exact_entropies(config: ConfigDict, path: Schedule) -> dict[str, float]:
    """-H(x_0) and -H(x_1) in bits of the data of a config, of the first level of its chain; {} where nobody knows."""
    data = config.data
    log_alpha, log_sigma = in_float64(path, np.array(1 / config.process.num_steps))
    if data.name == "toy2d" and data.toy2d.kind == "swissroll" and config.process.name == "gaussian":
        return entropies.swissroll(data.toy2d.noise, float(np.exp(log_alpha)), float(np.exp(log_sigma)))
    if data.name == "heartbeat" and config.process.name == "binomial":
        return entropies.heartbeat(config.process.binomial.rate, float(np.exp(log_alpha)))
    return {}


def resolve(config: ConfigDict, train: Source) -> ConfigDict:
    """The config with the shape, levels, classes and size of its data filled in, as a checkpoint keeps it."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(shape=train.shape, levels=train.levels, classes=train.classes, size=train.size)
        config.data.update(class_names=train.class_names, fingerprint=fingerprint(train))
    return config


def fingerprint(source: Source, examples: int = 16) -> str:
    """Return a hash of some examples of a source, evenly spread: the same data have the same, wherever they lie."""
    x0, label = source.read(np.linspace(0, source.size - 1, min(examples, source.size)).astype(np.int64))
    return hashlib.sha256(np.ascontiguousarray(x0).tobytes() + np.asarray(label, np.int32).tobytes()).hexdigest()[:16]


def make_to_model(config: ConfigDict) -> Callable[[Array, Array], Array]:
    """`into(x[B,*D] at rest, keys[B]) -> x0`, as config.data says; the keys are for dequantisation alone."""
    data = config.data

    def into(x: Array, keys: Array) -> Array:
        x0 = to_model(x, data.levels, data.mean, data.std)
        if not data.dequantise:
            return x0
        return dequantised(x0, data.levels, data.std, jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 2**31))

    return into


def make_from_model(config: ConfigDict) -> Callable[[ArrayLike], np.ndarray]:
    """Return `out(x0) -> x`: x0 [...,*D] as stored, the nearest grey levels, or floats.

    It raises FloatingPointError, with their number, for examples that are not finite.
    """
    data = config.data

    def out(x0: ArrayLike) -> np.ndarray:
        x0 = np.asarray(x0)
        each = x0.reshape(-1, math.prod(data.shape))
        if lost := np.count_nonzero(~np.isfinite(each).all(1)):
            raise FloatingPointError(
                f"{lost} of {len(each)} samples are not finite: the weights may have diverged. "
                "Try another --step or --ema"
            )
        return np.asarray(from_model(x0, data.levels, data.mean, data.std))

    return out
