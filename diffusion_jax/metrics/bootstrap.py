"""Confidence intervals of metrics by resampling the samples, with the reference held fixed."""

import math
from collections.abc import Callable

import numpy as np

from diffusion_jax import progress

NORMAL = 1.96
"""Half the width of the 95 % interval of a standard normal variable."""
LEAST = 4
"""Samples that an interval needs."""


def check_replicates(replicates: int) -> None:
    """Raise ValueError for a number of replicates that gives no interval. 0 asks for none."""
    if replicates < 0 or replicates == 1:
        raise ValueError(f"--bootstrap={replicates}: must be at least 2, or 0 for no intervals")


def interval(
    statistic: Callable[[np.ndarray], float],
    value: float,
    size: int,
    replicates: int = 100,
    seed: int = 0,
    name: str = "",
    within: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Return the 95 % confidence interval of a statistic of `size` samples.

    statistic: `statistic(rows)`, for some of the samples. value: the statistic of all samples. replicates: half as many
    pairs are drawn. name: for the progress. within: the range of the statistic; the interval is cut to it.

    A pair is a random half of the samples and the other half, without replacement, so no sample is repeated, which
    would bias nearest neighbours and unbiased kernel sums. Half the difference of the two values, p, has the variance
    of a mean over all samples. A distance near zero is quadratic in means: there the variance of p is twice that of the
    statistic, and the excess is the variance of half the sum, q. The interval is therefore that of a normal law with
    the variance max(Var p - Var q, Var q), which is exact for quadratic functions of normal means. Statistics such as
    coverage that saturate with the number of samples have too wide intervals.

    Reference: McCarthy 1969 (half-samples), Shao and Wu 1989 (delete half); the correction is ours. Raises ValueError
    below 2 replicates or 4 samples.
    """
    if replicates < 2 or size < LEAST:
        raise ValueError(f"an interval needs at least 2 replicates and {LEAST} samples (got {replicates} and {size})")
    rng, half, pairs = np.random.default_rng(seed), size // 2, max(2, replicates // 2)
    p, q = np.empty(pairs), np.empty(pairs)
    with progress.track(f"replicates of {name}", pairs) as report:
        for i in range(pairs):
            order = rng.permutation(size)
            one, other = (statistic(np.sort(rows)) for rows in (order[:half], order[half : 2 * half]))
            p[i], q[i] = (one - other) / 2, (one + other) / 2
            report(i + 1)
    variance, excess = np.mean(p**2), np.var(q, ddof=1)
    spread = NORMAL * math.sqrt(max(variance - excess, excess))
    return max(value - spread, within[0]), min(value + spread, within[1])
