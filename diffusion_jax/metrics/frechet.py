"""Fréchet (2-Wasserstein) distance between Gaussians fitted to the features of two sets."""

from collections.abc import Callable

import numpy as np

from diffusion_jax import progress


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Return the squared Fréchet distance of N(m1, C1) and N(m2, C2), in float64; it is never negative.

        |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    mean [F], cov [F,F], which may be singular, as from fewer examples than features.
    Reference: Dowson and Landau 1982; Heusel et al. 2017 for its use on images.
    """
    return frechet_from(mean1, cov1)(mean2, cov2)


def frechet_from(mean1: np.ndarray, cov1: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return `distance(mean2, cov2)`, the `frechet_distance` from one Gaussian to many.

    The trace of (C1 C2)^(1/2) is computed as the sum of the singular values of R1^T R2, where C = R R^T. The
    eigenvalues of C1 C2 would need the square root of a rounding error: the error is then 5e-5 for sets of fewer
    examples than features.
    """
    distance = _distance_of_roots(mean1, cov1)
    return lambda mean2, cov2: distance(mean2, _root(np.asarray(cov2, np.float64)), np.trace(cov2))


def _distance_of_roots(mean1: np.ndarray, cov1: np.ndarray) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """Return `distance(mean2, R2, trace of C2)`."""
    mean1, cov1 = np.asarray(mean1, np.float64), np.asarray(cov1, np.float64)
    root1 = _root(cov1)

    def distance(mean2: np.ndarray, root2: np.ndarray, trace2: float) -> float:
        overlap = np.linalg.svd(root1.T @ root2, compute_uv=False).sum()
        squared = np.sum((mean1 - np.asarray(mean2, np.float64)) ** 2) + np.trace(cov1) + trace2 - 2 * overlap
        return max(0.0, float(squared))

    return distance


def _root(cov: np.ndarray) -> np.ndarray:
    """Return R [F,rank] with R R^T = cov, without the directions whose variance is rounding error."""
    values, vectors = np.linalg.eigh(cov)
    real = values > len(values) * np.finfo(values.dtype).eps * values[-1]
    return vectors[:, real] * np.sqrt(values[real])


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [F] and covariance [F,F] (over N - 1) of features [N,F], in float64.

    Raises ValueError for fewer than 2 examples, or features that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a covariance needs features [N,F] of at least 2 examples (got shape {features.shape})")
    x = np.asarray(features, np.float64)
    if lost := np.count_nonzero(~np.isfinite(x).all(1)):
        raise ValueError(f"a covariance needs finite features ({lost} of {len(x)} examples have NaN or infinite ones)")
    mean = x.mean(0)
    return mean, (x - mean).T @ (x - mean) / (len(x) - 1)


def frechet_pixels(real: np.ndarray, samples: np.ndarray) -> float:
    """Return the Fréchet distance on the pixels themselves, in squared grey levels. real [N,*D], samples [M,*D].

    It depends on means and covariances only, and it decreases with M: compare sets of equal size. For small images, as
    a covariance of F pixels needs many more than F samples.
    """
    (mean1, cov1), (mean2, cov2) = (statistics(x.reshape(len(x), -1)) for x in (real, samples))
    return frechet_distance(mean1, cov1, mean2, cov2)


def frechet_interval(
    mean1: np.ndarray, cov1: np.ndarray, samples: np.ndarray, draws: int = 500, share: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return a bootstrap interval of the distance of samples [M,F] from a Gaussian.

    The Gaussian is held fixed. Samples are drawn with replacement, `draws` times. The duplicates add a bias, so the
    quantiles are shifted by the difference between the distance and the mean of the draws. The interval covers the
    expected distance of sets of this size, not its limit. Reference: Efron 1979.
    """
    x = np.asarray(samples, np.float64)
    count, dims = x.shape
    random = np.random.default_rng(seed)
    distance, values = _distance_of_roots(mean1, cov1), []
    with progress.track("bootstrap draws", draws) as report:
        for i in range(draws):
            weight = np.bincount(random.integers(count, size=count), minlength=count)
            mean = weight @ x / count
            root = ((x - mean) * np.sqrt(weight / (count - 1))[:, None]).T
            trace = np.square(root).sum()
            values.append(distance(mean, root if count < dims else _root(root @ root.T), trace))
            report(i + 1)
    moved = frechet_from(mean1, cov1)(*statistics(x)) - np.mean(values)
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2]) + moved
    return max(0.0, float(low)), float(high)
