"""Nearest neighbours in feature space, and a test for memorised training examples.

Distances are Euclidean, in float64. A matrix product selects the candidates; the distances of the candidates are then
computed from differences, without its rounding, so that copies are at distance 0.
"""

import numpy as np

SPARE = 4
"""Candidates beyond k, in case rounding changes the order."""
AT_ONCE = 2**24
"""Pairs whose distances are in memory at a time."""


def nearest(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of y [M,F] to each of x [N,F].

    Nearest first: squared distances [N,k] and rows of y [N,k]. Raises ValueError unless 1 <= k <= M.
    """
    if not 1 <= k <= len(y):
        raise ValueError(f"k={k}: must lie in 1 … {len(y)}, the number of examples")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    most = min(len(y), k + SPARE)
    distances, places = np.empty((len(x), k)), np.empty((len(x), k), np.int64)
    for part in parts(len(x), max(len(y), most * x.shape[1])):
        about = squared_distances(x[part], y)
        chosen = np.sort(np.argpartition(about, most - 1, axis=1)[:, :most], axis=1)
        exact = between(x[part, None], y[chosen])
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        distances[part] = np.take_along_axis(exact, order, axis=1)
        places[part] = np.take_along_axis(chosen, order, axis=1)
    return distances, places


def parts(rows: int, columns: int) -> list[slice]:
    """Return the rows of a table of pairs, in parts that fit in memory."""
    step = max(1, AT_ONCE // columns)
    return [slice(first, first + step) for first in range(0, rows, step)]


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return |x - y|² of all pairs as |x|² + |y|² - 2 x·y. This is fast and inexact. x [N,F], y [M,F] -> [N,M]."""
    norms = np.einsum("nf,nf->n", x, x)[:, None] + np.einsum("mf,mf->m", y, y)
    return np.maximum(norms - 2 * x @ y.T, 0)


def between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return |x - y|² along the last axis, from differences."""
    return np.square(x - y).sum(-1)


def memorisation(train: np.ndarray, heldout: np.ndarray, samples: np.ndarray) -> float:
    """Return the probability that samples are nearer to the training set than held-out examples.

    Ties count half. 1/2 for new draws from the distribution of the data, 1 for copies of training examples, below 1/2
    for samples that are far from the data. All arguments are features [·,F].
    Reference: Meehan et al. 2020, the statistic of their test.
    """
    return memorisation_from_distances(*(nearest(x, train, 1)[0][:, 0] for x in (samples, heldout)))


def memorisation_from_distances(samples: np.ndarray, heldout: np.ndarray) -> float:
    """Return `memorisation` from the distances [M] and [N] to the nearest training example."""
    ordered = np.sort(heldout)
    beyond = len(ordered) - (np.searchsorted(ordered, samples, "left") + np.searchsorted(ordered, samples, "right")) / 2
    return float(beyond.mean() / len(ordered))
