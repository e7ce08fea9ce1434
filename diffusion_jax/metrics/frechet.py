"""Fréchet (2-Wasserstein) distance between Gaussians fitted to the features of two sets."""

from collections.abc import Callable

import numpy as np


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
    mean1, cov1 = np.asarray(mean1, np.float64), np.asarray(cov1, np.float64)
    root1 = _root(cov1)

    def distance(mean2: np.ndarray, cov2: np.ndarray) -> float:
        mean2, cov2 = np.asarray(mean2, np.float64), np.asarray(cov2, np.float64)
        overlap = np.linalg.svd(root1.T @ _root(cov2), compute_uv=False).sum()
        squared = np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * overlap
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
