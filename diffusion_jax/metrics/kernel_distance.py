"""Kernel distance (KID): unbiased squared maximum mean discrepancy of the features of two sets."""

import numpy as np

BLOCK = 1000
"""Examples per block, as in the public code of Binkowski et al. 2018."""


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (x·y / F + 1)³ for each pair of x [N,F] and y [M,F]: [N,M]. Reference: Binkowski et al. 2018, 3.1."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased squared MMD, E k(x,x') + E k(y,y') - 2 E k(x,y), over pairs of different examples.

    x [N,F], y [M,F]; in float64. It may be negative. Reference: Gretton et al. 2012, eq. 3. Raises ValueError for fewer
    than two examples.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"the kernel distance needs at least 2 examples of each set (got {len(x)} and {len(y)})")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def within(z: np.ndarray) -> float:
        each = (np.einsum("nf,nf->n", z, z) / z.shape[1] + 1) ** 3
        return (kernel(z, z).sum() - each.sum()) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def kernel_distance(real: np.ndarray, samples: np.ndarray, block: int = BLOCK) -> float:
    """Return the mean of `squared_mmd` over disjoint blocks, which together use all of both sets.

    There are as many blocks as the smaller set has blocks of `block` examples, but at least one; a single block
    compares every pair. The sets are split in their order, which must therefore be random. real [N,F], samples [M,F].
    """
    blocks = max(1, min(len(real), len(samples)) // block)
    pairs = zip(np.array_split(real, blocks), np.array_split(samples, blocks), strict=True)
    return float(np.mean([squared_mmd(x, y) for x, y in pairs]))
