"""Data sources without a download: scans of handwritten digits, and 2-D toy data. The toy data have known densities."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion_jax.data.source import SPLITS, Source, check_split, from_arrays
from diffusion_jax.declarations import declare

DIGITS_TRAIN = 1500

RING_STD = 0.1
RING_MEANS = np.sqrt(2 * (1 - RING_STD**2)) * np.stack(
    [np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=-1
)
"""Means [8,2] of the mixture: eight Gaussians of equal weight and standard deviation RING_STD; unit variance."""


def digits(split: str) -> Source:
    """Return a split of 1,797 handwritten digits: 8x8 pixels, 17 grey levels, 10 classes.

    1,500 digits are for training, 297 held out.

    Reference: Alpaydin and Kaynak 1998 (UCI, Optical Recognition of Handwritten Digits): the part in scikit-learn.
    """
    from sklearn.datasets import load_digits

    check_split(split)
    scans, label = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(scans))
    rows = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    x0 = scans.astype(np.uint8).reshape(-1, 8, 8, 1)
    return from_arrays(f"digits/{split}", x0, label, levels=17, classes=10, rows=rows)


def negative_entropies(options: Mapping[str, Any], process: Any, alpha: float, sigma: float) -> dict[str, float]:
    """Return `entropies.swissroll` for the swiss roll under Gaussian noise; {} for other data."""
    from diffusion_jax.data import entropies

    known = process.gaussian and options["kind"] == "swissroll"
    return entropies.swissroll(options["noise"], alpha, sigma) if known else {}


@declare(entropies=negative_entropies)
def toy2d(split: str, kind: str = "mixture", size: int = 20_000, seed: int = 0, noise: float = 0.3) -> Source:
    """Return a split of points in the plane from a known density.

    float32 [size,2], mean 0 and variance 1. kind: "mixture" (label: one of eight components), "checkerboard" (one of
    eight squares), "moons" (one of two moons), "swissroll" (no labels). The held-out split has as many points, from a
    random stream of its own. noise: standard deviation of the noise of the swiss roll, on scikit-learn's scale, where
    the radius runs from 1.5 pi to 4.5 pi. Raises ValueError.
    """
    check_split(split)
    if kind not in TOYS:
        raise ValueError(f"data.toy2d.kind={kind!r}: unknown. Use one of {', '.join(TOYS)}")
    if size < 1:
        raise ValueError(f"data.toy2d.size={size}: must be at least 1")
    if not noise >= 0:
        raise ValueError(f"data.toy2d.noise={noise}: must be at least 0")
    draw, classes = TOYS[kind]
    if seed < 0:
        raise ValueError(f"data.toy2d.seed={seed}: must be at least 0")
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    x0, label = _swissroll(rng, size, noise) if kind == "swissroll" else draw(rng, size)
    return from_arrays(f"{kind}/{split}", x0.astype(np.float32), label, levels=0, classes=classes)


def _mixture(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    label = rng.integers(8, size=size)
    return RING_MEANS[label] + RING_STD * rng.standard_normal((size, 2)), label


def _checkerboard(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    label = rng.integers(8, size=size)
    row = label // 2
    column = 2 * (label % 2) + row % 2
    corner = np.stack([column, row], axis=-1) - 2
    return (corner + rng.random((size, 2))) * np.sqrt(3 / 4), label


def _moons(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    label = rng.integers(2, size=size)
    angle = np.pi * rng.random(size)
    upper, lower = (np.cos(angle), np.sin(angle)), (1 - np.cos(angle), 0.5 - np.sin(angle))
    points = np.where(label == 0, upper, lower).T + 0.05 * rng.standard_normal((size, 2))
    between = (4 / np.pi - 0.5) / 2
    scale = np.sqrt([0.5 + 0.25, 0.5 - (2 / np.pi) ** 2 + between**2])
    return (points - [0.5, 0.25]) / scale, label


def swissroll_curve(share: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    """Return points [N,2] on the noiseless roll and the scaled noise.

    share: fractions [N] of the way along the roll, from 0 to 1.
    """
    angle = np.pi * (1.5 + 3 * share)
    points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    mean = np.array([2, 2 / (3 * np.pi)])
    scale = np.sqrt((9.75 * np.pi**2 - mean @ mean) / 2 + noise**2)
    return (points - mean) / scale, noise / scale


def _swissroll(rng: np.random.Generator, size: int, noise: float = 0.3) -> tuple[np.ndarray, None]:
    points, std = swissroll_curve(rng.random(size), noise)
    return points + std * rng.standard_normal((size, 2)), None


TOYS: dict[str, tuple[Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray | None]], int]] = {
    "mixture": (_mixture, 8),
    "checkerboard": (_checkerboard, 8),
    "moons": (_moons, 2),
    "swissroll": (_swissroll, 0),
}
