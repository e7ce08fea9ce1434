"""The figures of a set of samples against real data, each a function of some of the samples, to be resampled.

    metric(real, samples) -> {name: figure},   figure(rows) -> float

`figure(ALL)` is the value; `bootstrap.interval` asks for other rows. Nothing is computed twice that does not depend on
the rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.metrics import frechet, inception_score, kernel_distance, manifold, neighbours

Figure = Callable[[Any], float]
ALL = slice(None)


class Features(NamedTuple):
    """What a feature network says of some examples."""

    features: np.ndarray
    """[N,F]"""
    logits: np.ndarray | None
    """[N,K], of its classes, where it is a classifier."""


class Real(NamedTuple):
    """What samples are compared with."""

    mean: np.ndarray
    """[F], over all examples."""
    cov: np.ndarray
    """[F,F]"""
    features: np.ndarray
    """[K,F] of those examples whose features were kept, in no order."""
    heldout: np.ndarray | None
    """[M,F], of data that nothing was trained on."""


def frechet_figure(real: Real, samples: Features) -> dict[str, Figure]:
    """fd: the Fréchet distance."""
    distance = frechet.frechet_from(real.mean, real.cov)
    return {"fd": lambda rows: distance(*frechet.statistics(samples.features[rows]))}


def kernel_figure(real: Real, samples: Features) -> dict[str, Figure]:
    """kd: the kernel distance, in blocks of 1,000."""
    return {"kd": lambda rows: kernel_distance.kernel_distance(real.features, samples.features[rows])}


def inception_score_figure(real: Real, samples: Features) -> dict[str, Figure]:
    """is_1split: the Inception score without splits. Raises ValueError where the network is no classifier."""
    if samples.logits is None:
        raise ValueError("metrics=is: these features come without classes; leave it out, or use inception or digits")
    logits = samples.logits
    return {"is_1split": lambda rows: inception_score.inception_score(logits[rows])}


def support_figures(real: Real, samples: Features) -> dict[str, Figure]:
    """precision, recall, density and coverage, with their authors' k. With radii and counts that are found once."""
    inside = manifold.balls_around(samples.features, real.features, manifold.radii(real.features, 3)) > 0
    radii = manifold.radii(real.features, 5)
    density = manifold.balls_around(samples.features, real.features, radii, closed=False) / 5

    def coverage(rows: Any) -> float:
        return float((neighbours.nearest(real.features, samples.features[rows], 1)[0][:, 0] < radii).mean())

    return {
        "precision": lambda rows: float(inside[rows].mean()),
        "recall": lambda rows: manifold.recall(real.features, samples.features[rows]),
        "density": lambda rows: float(density[rows].mean()),
        "coverage": coverage,
    }


def memorisation_figure(real: Real, samples: Features) -> dict[str, Figure]:
    """memorisation: see `neighbours.memorisation`. Raises ValueError where there are no held-out data."""
    if real.heldout is None:
        raise ValueError("metrics=nn: nothing is held out of these data; leave it out")
    own, other = (neighbours.nearest(x, real.features, 1)[0][:, 0] for x in (samples.features, real.heldout))
    return {"memorisation": lambda rows: neighbours.of_distances(own[rows], other)}


METRICS: dict[str, Callable[[Real, Features], dict[str, Figure]]] = {
    "fid": frechet_figure,
    "kid": kernel_figure,
    "is": inception_score_figure,
    "pr": support_figures,
    "nn": memorisation_figure,
}


def name(figure: str, features: str, count: int) -> str:
    """A figure's full name: fid_50k and kid_50k on Inception's features, fd_digits_2000 and the like on others."""
    whole = {"fd": "fid", "kd": "kid"}.get(figure, figure) if features == "inception" else f"{figure}_{features}"
    return f"{whole}_{f'{count // 1000}k' if count >= 10_000 and count % 1000 == 0 else count}"
