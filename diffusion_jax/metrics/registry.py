"""Sample-quality metrics by name, as functions of a subset of the samples.

    metric(real, samples) -> {name: statistic},   statistic(rows) -> float

`statistic(ALL)` is the value; `bootstrap.interval` passes other rows. What does not depend on the rows is computed
once, in the metric.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.declarations import declare
from diffusion_jax.metrics import frechet, inception_score, kernel_distance, manifold, neighbours
from diffusion_jax.metrics.features import Features

Statistic = Callable[[Any], float]
STATISTICS = ("fd", "fid", "kd", "kid", "is_1split", "precision", "recall", "density", "coverage", "memorisation")
"""Beginnings of the full names."""
ALL = slice(None)
LEAST = 4
"""Fewest samples of metrics=pr, whose balls reach to the third neighbour; half of the samples in an interval."""


class RealFeatures(NamedTuple):
    """Features and statistics of real data, with which samples are compared."""

    mean: np.ndarray
    """[F], over all examples."""
    cov: np.ndarray
    """[F,F]"""
    features: np.ndarray
    """[K,F] of a random choice of the examples, in random order."""
    heldout: np.ndarray | None
    """[M,F] of held-out data."""


Metric = Callable[[RealFeatures, Features], dict[str, Statistic]]
"""`metric(real, samples)` returns statistics by short name, which share their computation."""


def frechet_statistic(real: RealFeatures, samples: Features) -> dict[str, Statistic]:
    """fd: Fréchet distance."""
    distance = frechet.frechet_from(real.mean, real.cov)
    return {"fd": lambda rows: distance(*frechet.statistics(samples.features[rows]))}


def kernel_statistic(real: RealFeatures, samples: Features) -> dict[str, Statistic]:
    """kd: kernel distance, in blocks of 1,000 examples."""
    return {"kd": lambda rows: kernel_distance.kernel_distance(real.features, samples.features[rows])}


@declare(logits=True)
def inception_score_statistic(real: RealFeatures, samples: Features) -> dict[str, Statistic]:
    """is_1split: Inception score without splits. Raises ValueError if the feature network is no classifier."""
    if samples.logits is None:
        raise ValueError(
            "metrics=is: these features have no classes. Leave it out, or use features=inception, digits or grey28"
        )
    logits = samples.logits
    return {"is_1split": lambda rows: inception_score.inception_score(logits[rows])}


@declare(least=6)
def support_statistics(real: RealFeatures, samples: Features) -> dict[str, Statistic]:
    """precision, recall, density and coverage, with the k of their authors."""
    inside = manifold.count_balls(samples.features, real.features, manifold.radii(real.features, 3)) > 0
    radii = manifold.radii(real.features, 5)
    density = manifold.count_balls(samples.features, real.features, radii, closed=False) / 5

    def coverage(rows: Any) -> float:
        return float((neighbours.nearest(real.features, samples.features[rows], 1)[0][:, 0] < radii).mean())

    return {
        "precision": lambda rows: float(inside[rows].mean()),
        "recall": lambda rows: manifold.recall(real.features, samples.features[rows]),
        "density": lambda rows: float(density[rows].mean()),
        "coverage": coverage,
    }


@declare(heldout=True)
def memorisation_statistic(real: RealFeatures, samples: Features) -> dict[str, Statistic]:
    """memorisation: see `neighbours.memorisation`. Raises ValueError without held-out data."""
    if real.heldout is None:
        raise ValueError("metrics=nn: no held-out data. Leave it out")
    own, other = (neighbours.nearest(x, real.features, 1)[0][:, 0] for x in (samples.features, real.heldout))
    return {"memorisation": lambda rows: neighbours.memorisation_from_distances(own[rows], other)}


METRICS: dict[str, Metric] = {
    "fid": frechet_statistic,
    "kid": kernel_statistic,
    "is": inception_score_statistic,
    "pr": support_statistics,
    "nn": memorisation_statistic,
}


def full_name(statistic: str, features: str, count: int) -> str:
    """Return a statistic's name with features and number of samples: fid_50k for Inception, else fd_digits_2000.

    A prefix of a statistic is kept: heldout_fid_256, reconstruction_fid_256.
    """
    stem = statistic.replace("fd", "fid").replace("kd", "kid") if features == "inception" else f"{statistic}_{features}"
    return f"{stem}_{f'{count // 1000}k' if count >= 10_000 and count % 1000 == 0 else count}"


def range_of(statistic: str) -> tuple[float, float]:
    """Return the range of a statistic."""
    shares = ("precision", "recall", "coverage", "memorisation")
    lower = {"kd": -math.inf, "is_1split": 1.0}.get(statistic, 0.0)
    return lower, 1.0 if statistic in shares else math.inf


def is_full_name(name: str) -> bool:
    """Return True for the `full_name` of a statistic, also with the prefix heldout_ or reconstruction_."""
    return bool(re.fullmatch(rf"(heldout_|reconstruction_)?({'|'.join(STATISTICS)})_(\w+_)?\d+k?", name))
