"""Reference statistics of real data in the features of a network.

They are stored with their provenance.

    network = feature_networks.digits(source.shape, source.levels)
    statistics = reference.measure(source, network, "train")
    reference.write("digits_train.npz", statistics)

The file, a .npz, holds `mean` [F] and `cov` [F,F] over every example of a split, float64; `features` [K,F] float32 of K
examples chosen at random, and `places` [K], their numbers in the split; and `provenance`, a JSON text.
"""

import importlib.metadata
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import __version__, files
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source
from diffusion_jax.metrics.features import FeatureNetwork, Features, extract

KEEP = 10_000
"""Examples whose features are stored, for the metrics of pairs of examples."""
MUST_AGREE = ("shape", "levels", "features", "weights", "rule")
"""Keys of the provenance in which samples and reference must agree."""


class Reference(NamedTuple):
    """Statistics of a split of real data."""

    mean: np.ndarray
    cov: np.ndarray
    features: np.ndarray
    places: np.ndarray
    provenance: dict[str, Any]


def describe(network: FeatureNetwork, shape: tuple[int, ...], levels: int) -> dict[str, Any]:
    """Return the part of the provenance in which samples and reference must agree."""
    return {
        "shape": list(shape),
        "levels": levels,
        "features": network.name,
        "weights": network.weights,
        "rule": network.rule,
    }


def versions() -> dict[str, str]:
    """Return the versions of this package and of the packages that compute features."""
    return {"diffusion_jax": __version__, **{name: importlib.metadata.version(name) for name in ("jax", "numpy")}}


def source_features(source: Source, network: FeatureNetwork, workers: int = 0) -> Features:
    """Return the features of every example of a source, in order. workers: processes that read the examples."""
    batches = pipeline.in_order(source, 256, workers=workers)
    return extract(network, source.levels, (b["x0"][b["mask"] > 0] for b in batches), source.size, source.name)


def measure(
    source: Source,
    network: FeatureNetwork,
    split: str,
    keep: int = KEEP,
    workers: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Reference:
    """Return the statistics of every example of a source.

    split, options: the split and the options of the data set, for the provenance. keep: examples whose features are
    stored. workers: processes that read the examples. Raises ValueError for a source of fewer than 2 examples.
    """
    if source.size < 2:
        raise ValueError(f"{source.name}: {source.size} example is too few for statistics. Choose another split")
    features = source_features(source, network, workers).features
    x = features.astype(np.float64)
    mean = x.mean(0)
    places = np.random.default_rng(0).permutation(len(x))[:keep]
    provenance = {
        "data": source.name,
        "split": split,
        "count": len(x),
        **describe(network, source.shape, source.levels),
        "resize": dict(options or {}),
        "versions": versions(),
    }
    return Reference(mean, (x - mean).T @ (x - mean) / (len(x) - 1), features[places], places, provenance)


def write(path: os.PathLike | str, reference: Reference) -> None:
    """Write a reference into a .npz file."""
    files.save_npz(path, reference._asdict() | {"provenance": np.array(json.dumps(reference.provenance, default=list))})


def read(path: os.PathLike | str) -> Reference:
    """Read a reference. Raises FileNotFoundError, or ValueError for a file that is not one."""
    path = pathlib.Path(files.expand(path))
    if not path.is_file():
        raise FileNotFoundError(f"--stats={path}: no such file. Make it with main stats --config=CONFIG --out={path}")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in Reference._fields}
        reference = Reference(**arrays | {"provenance": json.loads(str(arrays["provenance"]))})
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"--stats={path}: no file of main stats, or a damaged one. Make it again") from error
    return reference


def check_fits(reference: Reference, samples: Mapping[str, Any]) -> None:
    """Raise ValueError, listing each difference, unless a reference fits the samples.

    samples: the dict that `describe` returns for the feature network and the shape and levels of the samples.
    """
    differing = [
        f"{key}: reference {reference.provenance.get(key)}, samples {samples[key]}"
        for key in MUST_AGREE
        if reference.provenance.get(key) != samples[key]
    ]
    if differing:
        raise ValueError(
            f"--stats: the reference does not fit the samples ({'; '.join(differing)}). Make it again with main stats, "
            "with the same --features and a config of the same data"
        )
