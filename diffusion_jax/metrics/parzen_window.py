"""Parzen window estimate of the likelihood of test data under samples.

    log p(x) = log mean_i N(x; s_i, sigma² I),    samples s_i in [0, 1]^D

sigma is the one of `SIGMAS` with the highest mean log p of validation data. Estimates of different numbers of samples
are not comparable; the protocol of Sohl-Dickstein et al. 2015, table 2, is 10,000 samples and all test images.
Reference: Breuleux et al. 2011; Goodfellow et al. 2014, section 5.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from diffusion_jax import progress
from diffusion_jax.metrics import neighbours

SIGMAS = np.logspace(-1, 0, 10)
VALIDATION = 1000
"""Validation examples at most."""
SAMPLES = 10_000
"""Samples of the protocol."""


class Estimate(NamedTuple):
    """Parzen window estimate of the mean log density, in nats."""

    mean: float
    stderr: float
    """Standard error over the test examples."""
    sigma: float
    """The width that was chosen."""


def parzen(samples: np.ndarray, validation: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """Return the mean log density of `test` in nats, and its standard error."""
    return estimate(samples, validation, test)[:2]


def estimate(samples: np.ndarray, validation: np.ndarray, test: np.ndarray) -> Estimate:
    """Return the Parzen window estimate of arrays [N,D] in [0, 1].

    The first VALIDATION rows of `validation` choose sigma. Pairs are compared in tiles of 32 MB. Raises ValueError for
    other shapes, empty arrays, fewer than two test examples and values outside [0, 1].
    """
    arrays = {"samples": samples, "validation": validation[:VALIDATION], "test": test}
    for name, x in arrays.items():
        if x.ndim != 2 or not x.size or x.shape[1] != samples.shape[1]:
            raise ValueError(f"{name}: shape {x.shape} must be [N,D] with the D of samples. Flatten each example")
        if not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(f"{name}: values must lie in [0, 1] (got {x.min():g} to {x.max():g}). Rescale them")
    if len(test) < 2:
        raise ValueError(f"test: {len(test)} example has no standard error. Use 2 or more")
    scores = log_densities(arrays["samples"], arrays["validation"], SIGMAS).mean(1)
    sigma = float(SIGMAS[scores.argmax()])
    log_p = log_densities(samples, test, np.array([sigma]))[0]
    return Estimate(float(log_p.mean()), float(log_p.std(ddof=1) / np.sqrt(len(log_p))), sigma)


def log_densities(samples: np.ndarray, x: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Return the log densities [S,M] in nats for each width.

    samples: centres of the kernels [N,D]. x: [M,D]. sigmas: widths [S].
    """
    samples, dims = np.asarray(samples, np.float64), samples.shape[1]
    log_p = np.empty((len(sigmas), len(x)))
    with progress.track("Parzen windows", len(x)) as report:
        for part in neighbours.parts(len(x), 4 * len(samples)):
            squares = neighbours.squared_distances(np.asarray(x[part], np.float64), samples)
            for row, sigma in enumerate(sigmas):
                log_p[row, part] = logsumexp(-squares / (2 * sigma**2), axis=1)
            report(min(part.stop, len(x)))
    return log_p - np.log(len(samples)) - dims / 2 * np.log(2 * np.pi * sigmas[:, None] ** 2)
