"""Are samples where the data are, and do they reach all of it? Precision, recall, density and coverage.

The support of a law is taken to be the union of balls around examples, each reaching to its k-th nearest neighbour in
its own set. What depends on the number of examples, as recall does, is compared at equal numbers only.
"""

import numpy as np

from diffusion_jax.metrics import neighbours

ROUNDING = 1e-9
"""Relative: pairs as near to a ball's edge as this are decided by differences."""


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """The squared distance [N] of each of x [N,F] to its k-th nearest other. Raises ValueError unless 1 <= k < N."""
    if not 1 <= k < len(x):
        raise ValueError(f"k={k} neighbours within {len(x)} examples: it must be at least 1 and less than their number")
    return neighbours.nearest(x, x, k + 1)[0][:, k]


def balls_around(x: np.ndarray, centres: np.ndarray, squared_radii: np.ndarray, closed: bool = True) -> np.ndarray:
    """How many of the balls each of x [N,F] lies in: int [N]. centres [M,F]; closed: an edge belongs to its ball."""
    x, centres = np.asarray(x, np.float64), np.asarray(centres, np.float64)
    sizes = np.einsum("mf,mf->m", centres, centres)
    found = np.empty(len(x), np.int64)
    for part in neighbours.parts(len(x), len(centres)):
        about = neighbours.squared_distances(x[part], centres)
        sure = ROUNDING * (sizes + np.einsum("nf,nf->n", x[part], x[part])[:, None])
        inside = about < squared_radii
        row, column = np.nonzero(np.abs(about - squared_radii) <= sure)
        exact = neighbours.between(x[part][row], centres[column])
        inside[row, column] = exact <= squared_radii[column] if closed else exact < squared_radii[column]
        found[part] = inside.sum(1)
    return found


def precision(real: np.ndarray, samples: np.ndarray, k: int = 3) -> float:
    """The share of samples within the support of the data. Source: Kynkäänniemi et al. 2019, eq. 1-3 (k = 3)."""
    return float((balls_around(samples, real, radii(real, k)) > 0).mean())


def recall(real: np.ndarray, samples: np.ndarray, k: int = 3) -> float:
    """The share of the data within the support of the samples. Source: Kynkäänniemi et al. 2019, eq. 1-3 (k = 3)."""
    return precision(samples, real, k)


def density(real: np.ndarray, samples: np.ndarray, k: int = 5) -> float:
    """In how many balls of the data a sample lies, in units of k; 1 is expected of equal laws, and it may be more.

    An edge is outside of its ball, as in the authors' code. Source: Naeem et al. 2020, eq. 4 (k = 5).
    """
    return float(balls_around(samples, real, radii(real, k), closed=False).mean() / k)


def coverage(real: np.ndarray, samples: np.ndarray, k: int = 5) -> float:
    """The share of the balls of the data that hold a sample. Source: Naeem et al. 2020, eq. 5 (k = 5)."""
    return float((neighbours.nearest(real, samples, 1)[0][:, 0] < radii(real, k)).mean())
