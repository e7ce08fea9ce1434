"""Precision, recall, density and coverage of samples, from nearest neighbours in feature space.

The support of a distribution is estimated as the union of balls around its examples, each with the distance to the k-th
nearest neighbour in the same set as its radius. Recall and others depend on the number of examples: compare them at
equal numbers.
"""

import numpy as np

from diffusion_jax.metrics import neighbours

ROUNDING = 1e-9
"""Relative distance to a ball's edge below which the distance is computed exactly."""


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance [N] of each of x [N,F] to its k-th nearest other.

    Raises ValueError unless 1 <= k < N.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"k={k}: must lie in 1 … {len(x) - 1}, as there are {len(x)} examples")
    return neighbours.nearest(x, x, k + 1)[0][:, k]


def count_balls(x: np.ndarray, centres: np.ndarray, squared_radii: np.ndarray, closed: bool = True) -> np.ndarray:
    """Return the number of balls that each of x [N,F] lies in: int [N].

    centres [M,F]. closed: whether balls hold their edge.
    """
    x, centres = np.asarray(x, np.float64), np.asarray(centres, np.float64)
    sizes = np.einsum("mf,mf->m", centres, centres)
    counts = np.empty(len(x), np.int64)
    for part in neighbours.parts(len(x), len(centres)):
        about = neighbours.squared_distances(x[part], centres)
        error = ROUNDING * (sizes + np.einsum("nf,nf->n", x[part], x[part])[:, None])
        inside = about < squared_radii
        row, column = np.nonzero(np.abs(about - squared_radii) <= error)
        exact = neighbours.between(x[part][row], centres[column])
        inside[row, column] = exact <= squared_radii[column] if closed else exact < squared_radii[column]
        counts[part] = inside.sum(1)
    return counts


def precision(real: np.ndarray, samples: np.ndarray, k: int = 3) -> float:
    """Return the share of samples in the support of the data. Reference: Kynkäänniemi et al. 2019, eq. 1-3 (k = 3)."""
    return float((count_balls(samples, real, radii(real, k)) > 0).mean())


def recall(real: np.ndarray, samples: np.ndarray, k: int = 3) -> float:
    """Return the share of data in the support of the samples. Reference: Kynkäänniemi et al. 2019, eq. 1-3 (k = 3)."""
    return precision(samples, real, k)


def density(real: np.ndarray, samples: np.ndarray, k: int = 5) -> float:
    """Return the mean number of the data's balls around a sample, over k.

    1 for equal distributions. Balls do not hold their edge, as in the authors' code. Reference: Naeem et al. 2020, eq.
    4 (k = 5).
    """
    return float(count_balls(samples, real, radii(real, k), closed=False).mean() / k)


def coverage(real: np.ndarray, samples: np.ndarray, k: int = 5) -> float:
    """Return the share of the balls of the data that hold a sample. Reference: Naeem et al. 2020, eq. 5 (k = 5)."""
    return float((neighbours.nearest(real, samples, 1)[0][:, 0] < radii(real, k)).mean())
