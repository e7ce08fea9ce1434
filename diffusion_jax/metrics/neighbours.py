"""Which examples are near which, and does the model remember its training set?

Distances are Euclidean, of features, in float64. One matrix product finds who is near; the distances that decide are
those of differences, as a double loop would find them: x and its copy are at 0, whatever the product rounds to.
"""

import numpy as np

SPARE = 4
"""Neighbours beyond those asked for whose distances are computed by differences, lest rounding has the wrong ones."""
AT_ONCE = 2**24
"""Pairs whose distances are held in memory together."""


def nearest(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of y [M,F] to each of x [N,F], nearest first: (squared distances [N,k], places in y [N,k]).

    Raises ValueError unless 1 <= k <= M.
    """
    if not 1 <= k <= len(y):
        raise ValueError(f"k={k} neighbours of {len(y)} examples: it must be at least 1 and at most their number")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    most = min(len(y), k + SPARE)
    distances, places = np.empty((len(x), k)), np.empty((len(x), k), np.int64)
    for part in parts(len(x), len(y)):
        about = squared_distances(x[part], y)
        chosen = np.sort(np.argpartition(about, most - 1, axis=1)[:, :most], axis=1)
        exact = between(x[part, None], y[chosen])
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        distances[part] = np.take_along_axis(exact, order, axis=1)
        places[part] = np.take_along_axis(chosen, order, axis=1)
    return distances, places


def parts(rows: int, columns: int) -> list[slice]:
    """The rows of a table of pairs, in parts that fit in memory."""
    step = max(1, AT_ONCE // columns)
    return [slice(first, first + step) for first in range(0, rows, step)]


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x - y|² of all pairs by |x|² + |y|² - 2 x·y: quick, and off by rounding. x [N,F], y [M,F] -> [N,M]."""
    norms = np.einsum("nf,nf->n", x, x)[:, None] + np.einsum("mf,mf->m", y, y)
    return np.maximum(norms - 2 * x @ y.T, 0)


def between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x - y|² along the last axis, by differences."""
    return np.square(x - y).sum(-1)


def memorisation(train: np.ndarray, heldout: np.ndarray, samples: np.ndarray) -> float:
    """P(a sample is nearer to its nearest training example than a held-out example is to its own), ties counting half.

    1/2 for samples that are new draws of the law of the data, 1 for copies of the training set; below 1/2 where samples
    lie off the data. All are features [·,F]. Source: Meehan et al. 2020, the statistic of their test.
    """
    return of_distances(*(nearest(x, train, 1)[0][:, 0] for x in (samples, heldout)))


def of_distances(samples: np.ndarray, heldout: np.ndarray) -> float:
    """`memorisation` of the distances [M] and [N] to the nearest training example."""
    ordered = np.sort(heldout)
    beyond = len(ordered) - (np.searchsorted(ordered, samples, "left") + np.searchsorted(ordered, samples, "right")) / 2
    return float(beyond.mean() / len(ordered))
