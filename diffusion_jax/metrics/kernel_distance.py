"""How far are two sets apart, whatever their laws look like: the kernel distance (KID) of their features, unbiased."""

import numpy as np

BLOCK = 1000
"""Examples of a block, as in the public code of Binkowski et al. 2018."""


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / F + 1)³ for each pair of x [N,F] and y [M,F]: [N,M]. Source: Binkowski et al. 2018, section 3.1."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """E k(x,x') + E k(y,y') - 2 E k(x,y), each over pairs of different examples: unbiased, hence at times negative.

    x [N,F], y [M,F]; in float64. Source: Gretton et al. 2012, eq. 3. Raises ValueError below two examples.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"the kernel distance needs at least 2 examples of each set, not {len(x)} and {len(y)}")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def within(z: np.ndarray) -> float:
        each = (np.einsum("nf,nf->n", z, z) / z.shape[1] + 1) ** 3
        return (kernel(z, z).sum() - each.sum()) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def kernel_distance(real: np.ndarray, samples: np.ndarray, block: int = BLOCK) -> float:
    """The mean of `squared_mmd` over blocks that share no example: all of both sets is used, N·block kernels a set.

    There are as many blocks as the smaller set has blocks of `block` examples, at least one; a single one compares
    every pair. The sets are split as they stand, so their order must mean nothing. real [N,F], samples [M,F].
    """
    blocks = max(1, min(len(real), len(samples)) // block)
    pairs = zip(np.array_split(real, blocks), np.array_split(samples, blocks), strict=True)
    return float(np.mean([squared_mmd(x, y) for x, y in pairs]))
