"""3x3 convolutions as the device at hand does them fastest: with fewer products on a CPU, elsewhere as XLA has them.

Arrays are [B, H, W, C], kernels HWIO, strides 1, padding SAME. Both of `convolve` and `convolve_repeated` stand in for
`jax.lax.conv_general_dilated` in `flax.linen.Conv`; what they compute differs from it by rounding alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Convolution = Callable[[Array, Array], Array]

FEWEST_CHANNELS = 128
"""With fewer on either side, the sums of `minimal` and of its gradients cost what its products save."""


def convolve(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """x [B,H,W,C], kernel [3,3,C,D] -> [B,H,W,D]."""
    if x.shape[1] % 2 or min(kernel.shape[2:]) < FEWEST_CHANNELS:
        return direct(x, kernel)
    return _fastest(x, kernel, direct, minimal)


def convolve_repeated(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """`convolve` of x [B,H,W,C] with each pixel repeated 2x2: [B,2H,2W,D]."""
    return _fastest(x, kernel, repeated, repeated_in_quarters)


def _fastest(x: Array, kernel: Array, plain: Convolution, on_cpu: Convolution) -> Array:
    """`on_cpu` where that is, unless bfloat16 would round its sums; else `plain`.

    What differentiation stores is x and the kernel, whichever it is.
    """
    if kernel.dtype == jnp.bfloat16:
        return plain(x, kernel)
    chosen = partial(jax.lax.platform_dependent, cpu=on_cpu, default=plain)
    return jax.checkpoint(chosen, prevent_cse=False)(x, kernel)


def direct(x: Array, kernel: Array, padding: str | Sequence[tuple[int, int]] = "SAME") -> Array:
    """The convolution as XLA does it."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def minimal(x: Array, kernel: Array) -> Array:
    """`direct`, for an even H, with 6 products in place of 9 for each pixel of the result.

    Two rows of the result need four of x and three of the kernel: four products of sums of these in place of six.
    Source: Winograd 1980, F(2, 3), one-dimensional; for networks Lavin and Gray 2016.
    """
    rows = x.shape[1] // 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    x0, x1, x2, x3 = (jax.lax.slice_in_dim(padded, i, i + 2 * rows - 1, 2, axis=1) for i in range(4))
    k0, k1, k2 = kernel[:1], kernel[1:2], kernel[2:]
    pairs = ((x0 - x2, k0), (x1 + x2, (k0 + k1 + k2) / 2), (x2 - x1, (k0 - k1 + k2) / 2), (x1 - x3, k2))
    m0, m1, m2, m3 = (direct(of_x, of_kernel, ((0, 0), (1, 1))) for of_x, of_kernel in pairs)
    return jnp.stack([m0 + m1 + m2, m1 - m2 - m3], axis=2).reshape(*x.shape[:3], -1)


def repeated(x: Array, kernel: Array) -> Array:
    """The convolution of repeated pixels as its definition says."""
    return direct(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel)


def repeated_in_quarters(x: Array, kernel: Array) -> Array:
    """`repeated`, with 4 products in place of 9 for each pixel of the result.

    A window over repeated pixels sees two rows and two columns of x only. Those of the result's even rows are the row
    before and the row itself, with the kernel's rows k0 and k1 + k2; those of odd rows the row itself and the next,
    with k0 + k1 and k2. Columns alike, so that the result is four convolutions of 2x2, laid in each other.
    """
    taps = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
    kernels = jnp.einsum("atk,bsl,klcd->abtscd", taps, taps, kernel, precision="highest")
    rows = [jnp.stack([direct(x, kernels[a, b], ((1 - a, a), (1 - b, b))) for b in (0, 1)], axis=3) for a in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2], -1)
