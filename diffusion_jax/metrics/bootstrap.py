"""How much of a figure is chance? Intervals by resampling the samples, the reference being held fixed."""

from collections.abc import Callable

import numpy as np


def interval(
    figure: Callable[[np.ndarray], float], value: float, size: int, replicates: int = 100, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a figure of `size` samples, whose value is `value`: `figure(rows)` finds it for some rows.

    Each replicate is the figure of half the samples, drawn without replacement: for a mean, it spreads as the mean over
    all samples does, and no sample comes twice, which would upset nearest neighbours and unbiased kernel sums. The
    quantiles are moved so that the replicates' mean is `value`, since many figures change with the number of samples.
    Source: Politis and Romano 1994; Shao and Wu 1989 (delete half). Raises ValueError below 2 replicates or 4 samples.
    """
    if replicates < 2 or size < 4:
        raise ValueError(f"an interval needs 2 replicates and 4 samples at least, not {replicates} and {size}")
    rng = np.random.default_rng(seed)
    found = np.array([figure(np.sort(rng.permutation(size)[: size // 2])) for _ in range(replicates)])
    low, high = np.quantile(found - found.mean(), [0.025, 0.975])
    return value + float(low), value + float(high)
