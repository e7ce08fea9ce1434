"""Confidence intervals of metrics by resampling the samples, with the reference held fixed."""

from collections.abc import Callable

import numpy as np

from diffusion_jax import progress

LEAST = 4
"""Samples that an interval needs."""


def check_replicates(replicates: int) -> None:
    """Raise ValueError for a number of replicates, as of --bootstrap, that gives no interval; 0 asks for none."""
    if replicates < 0 or replicates == 1:
        raise ValueError(f"--bootstrap={replicates}: must be at least 2, or 0 for no intervals")


def interval(
    statistic: Callable[[np.ndarray], float],
    value: float,
    size: int,
    replicates: int = 100,
    seed: int = 0,
    name: str = "",
) -> tuple[float, float]:
    """Return the 95 % confidence interval of a statistic of `size` samples.

    statistic: `statistic(rows)`, for some of the samples. value: the statistic of all samples. name: for the progress.

    Each replicate is the statistic of half of the samples, drawn without replacement: for a mean, it has the variance
    of the mean over all samples, and no sample is repeated, which would bias nearest neighbours and unbiased kernel
    sums. The quantiles are shifted so that the mean of the replicates is `value`, since many statistics depend on the
    number of samples.
    Reference: Politis and Romano 1994; Shao and Wu 1989 (delete half). Raises ValueError below 2 replicates or 4
    samples.
    """
    if replicates < 2 or size < LEAST:
        raise ValueError(f"an interval needs at least 2 replicates and {LEAST} samples (got {replicates} and {size})")
    rng = np.random.default_rng(seed)
    values = []
    with progress.track(f"replicates of {name}", replicates) as report:
        for i in range(replicates):
            values.append(statistic(np.sort(rng.permutation(size)[: size // 2])))
            report(i + 1)
    low, high = np.quantile(np.array(values) - np.mean(values), [0.025, 0.975])
    return value + float(low), value + float(high)
