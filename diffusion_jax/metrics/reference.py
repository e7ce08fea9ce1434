"""Reference statistics: what a feature network says of real data, kept in a file that says what it is of.

    network = build.feature_network("digits", shape, levels)
    reference = reference.measure(config, "train", network)
    reference.write("digits_train.npz", reference)

The file, a .npz: `mean` [F] and `cov` [F,F] over every example of a split, float64; `features` [K,F] float32 of K
examples chosen at random, and their `places` in the split; and `provenance`, a JSON text.
"""

import importlib.metadata
import json
import logging
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import __version__, devices, files, progress
from diffusion_jax.data import pipeline
from diffusion_jax.experiment import sources
from diffusion_jax.metrics.features import FeatureNetwork
from diffusion_jax.metrics.figures import Features

log = logging.getLogger(__name__)

KEPT = 10_000
"""Examples whose features are kept, for the figures that need pairs of examples."""
MUST_AGREE = ("shape", "levels", "features", "weights", "rule")
"""What of the provenance has to be the same for samples and reference."""


class Reference(NamedTuple):
    """Statistics of a split of real data."""

    mean: np.ndarray
    cov: np.ndarray
    features: np.ndarray
    places: np.ndarray
    provenance: dict[str, Any]


def describe(network: FeatureNetwork, shape: tuple[int, ...], levels: int) -> dict[str, Any]:
    """The part of the provenance that samples and reference share."""
    return {
        "shape": list(shape),
        "levels": levels,
        "features": network.name,
        "weights": network.weights,
        "rule": network.rule,
    }


def versions() -> dict[str, str]:
    """This package's and those that compute features."""
    return {"diffusion_jax": __version__, **{name: importlib.metadata.version(name) for name in ("jax", "numpy")}}


def extract(network: FeatureNetwork, levels: int, batches: Iterable[np.ndarray], total: int, what: str) -> Features:
    """The features of examples at rest, in batches of any size: float32 [N,F], and logits. On all devices.

    Every device works on `network.tile` examples at a time, so that features depend neither on the size of the batches
    nor on the number of devices. Raises ValueError for images of floats beyond [-1, 1], or features not finite.
    """

    def checked() -> Iterator[np.ndarray]:
        for x in batches:
            if network.images and levels == 0 and not (np.abs(x) <= 1).all():
                raise ValueError(
                    f"{what}: images of floats must lie in [-1, 1] for features={network.name} (got {x.min():g} to "
                    f"{x.max():g}). Rescale them, or save uint8 images and set levels=256"
                )
            yield x

    parts: list[Features] = []
    done = 0
    for features, logits in _applied(network, checked(), total, f"features of {what}"):
        if not np.isfinite(features).all():
            bad = done + int(np.argmin(np.isfinite(features).all(1)))
            raise ValueError(f"{what}: features={network.name} of example {bad} are not finite. Check that example")
        parts.append(Features(np.asarray(features, np.float32), logits))
        done += len(features)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _applied(
    network: FeatureNetwork, batches: Iterable[np.ndarray], total: int, name: str
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield features and logits, batch by batch."""
    if network.compiled:
        tiled = devices.TiledMap(network.apply, network.tile, name=name)
        yield from tiled.stream((devices.replicate(network.params),), ((x,) for x in batches), total)
        return
    with progress.track(name, total) as report:
        done = 0
        for x in devices.rebatch(batches, network.tile):
            yield network.apply(network.params, x)
            done += len(x)
            report(done)


def of_split(config: ConfigDict, split: str, network: FeatureNetwork) -> Features:
    """The features of every example of a split, in order."""
    source = sources.source(config, split)
    batches = pipeline.in_order(source, 256, workers=config.data.workers)
    return extract(network, source.levels, (b["x0"][b["mask"] > 0] for b in batches), source.size, source.name)


def measure(config: ConfigDict, split: str, network: FeatureNetwork, keep: int = KEPT) -> Reference:
    """The statistics of a whole split, nothing dropped."""
    source = sources.source(config, split)
    if source.size < 2:
        raise ValueError(f"{source.name}: {source.size} example is too few for statistics; choose another split")
    features = of_split(config, split, network).features
    x = features.astype(np.float64)
    mean = x.mean(0)
    places = np.random.default_rng(0).permutation(len(x))[:keep]
    provenance = {
        "data": source.name,
        "split": split,
        "count": len(x),
        **describe(network, source.shape, source.levels),
        "resize": dict(config.data.get(config.data.name, {})),
        "versions": versions(),
    }
    return Reference(mean, (x - mean).T @ (x - mean) / (len(x) - 1), features[places], places, provenance)


def write(path: os.PathLike | str, reference: Reference) -> None:
    """Write a reference into a .npz file, atomically."""
    files.save_npz(path, reference._asdict() | {"provenance": np.array(json.dumps(reference.provenance, default=list))})


def read(path: os.PathLike | str) -> Reference:
    """Read a reference. Raises FileNotFoundError, or ValueError for a file that is not one."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--stats={path}: no such file; make it with main stats --config=CONFIG --out={path}")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in Reference._fields}
        reference = Reference(**arrays | {"provenance": json.loads(str(arrays["provenance"]))})
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"--stats={path}: is not what main stats writes; make it again") from error
    return reference


def check(reference: Reference, samples: dict[str, Any]) -> None:
    """Raise ValueError, naming each difference, unless samples described so can be compared with a reference."""
    differing = [
        f"{key}: reference {reference.provenance.get(key)}, samples {samples[key]}"
        for key in MUST_AGREE
        if reference.provenance.get(key) != samples[key]
    ]
    if differing:
        raise ValueError(
            f"the reference does not fit the samples ({'; '.join(differing)}); make it again with main stats, with the "
            "same --features and a config of the same data"
        )
