"""Faster 3x3 convolutions on CPUs: the same sums with fewer products.

`fast(apply)` is the forward pass of a network with these convolutions in place of the convolutions of `flax.linen`;
they are chosen when a program is compiled for a CPU, and on other devices the convolution is XLA's. The results differ
by rounding alone. The faster ways are taken for stride 1, padding SAME and at least float32: in bfloat16 the sums of
kernels and of pixels would be rounded.

Arrays are [B,H,W,C], kernels [3,3,C,D]. `convolve` and `convolve_repeated` take the arguments of
`jax.lax.conv_general_dilated`.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array, repeat_pixels

Padding = str | Sequence[tuple[int, int]]

LAYOUT = jax.lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))
PLAIN: dict[str, Any] = {
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": LAYOUT,
    "feature_group_count": 1,
    "precision": None,
}
"""The options of a convolution that has nothing special."""

MIN_CHANNELS = 128
"""With fewer on either side, the sums of `winograd` and of its gradients cost what its products save."""


def fast(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `apply` of a linen module with faster convolutions on a CPU.

    They replace the convolutions of every `nn.Conv` (not of its subclasses) and of `layers.Upsample`.
    """

    @wraps(apply)
    def fast_apply(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(_with_fast_convolutions):
            return apply(*args, **kwargs)

    return fast_apply


def _with_fast_convolutions(
    call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
) -> Any:
    """Call a method of a module, with its faster convolution if any. See `nn.intercept_methods`."""
    module = context.module
    if context.method_name == "__call__" and type(module) is layers.Upsample:
        (x,) = args
        options = {"kernel_init": layers.GLOROT, "dtype": module.dtype, "conv_general_dilated": convolve_repeated}
        return nn.Conv(x.shape[-1], (3, 3), name="conv", **options)(x)
    if type(module) is nn.Conv and module.conv_general_dilated is None:
        # A bound module is made anew for every call of `apply`, so nothing outlives the call.
        object.__setattr__(module, "conv_general_dilated", convolve)
    return call(*args, **kwargs)


def direct(x: Array, kernel: Array, padding: Padding = "SAME") -> Array:
    """Convolution by XLA: [B,H,W,C] -> [B,H,W,D]."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, **PLAIN)


def winograd(x: Array, kernel: Array) -> Array:
    """Convolution of `direct` for an even H, with 6 products per pixel in place of 9.

    Two rows of the result need four of x and three of the kernel: four products of sums of these in place of six.
    Source: Winograd 1980, F(2, 3), one-dimensional; for networks Lavin and Gray 2016.
    """
    batch, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    x0, x1, x2, x3 = (jax.lax.slice_in_dim(padded, i, i + height - 1, 2, axis=1) for i in range(4))
    k0, k1, k2 = kernel[:1], kernel[1:2], kernel[2:]
    pairs = ((x0 - x2, k0), (x1 + x2, (k0 + k1 + k2) / 2), (x2 - x1, (k0 - k1 + k2) / 2), (x1 - x3, k2))
    m0, m1, m2, m3 = (direct(of_x, of_kernel, ((0, 0), (1, 1))) for of_x, of_kernel in pairs)
    return jnp.stack([m0 + m1 + m2, m1 - m2 - m3], axis=2).reshape(batch, height, width, kernel.shape[-1])


def repeated(x: Array, kernel: Array) -> Array:
    """Convolution of `repeat_pixels`: [B,H,W,C] -> [B,2H,2W,D]."""
    return direct(repeat_pixels(x), kernel)


def repeated_in_quarters(x: Array, kernel: Array) -> Array:
    """Convolution of `repeated`, with 4 products per pixel in place of 9.

    A window over doubled pixels covers only two rows and two columns of x. For an even row of the result, these are the
    row before and the row itself, with the kernel rows k0 and k1 + k2; for an odd row, the row itself and the next row,
    with k0 + k1 and k2. Columns work alike, so the result is four interleaved convolutions of 2x2.
    """
    batch, height, width, _ = x.shape

    def halves(kernel: Array, axis: int) -> list[Array]:
        k0, k1, k2 = (jax.lax.slice_in_dim(kernel, i, i + 1, axis=axis) for i in range(3))
        return [jnp.concatenate([k0, k1 + k2], axis), jnp.concatenate([k0 + k1, k2], axis)]

    sides = ((1, 0), (0, 1))  # of the padding, for even and odd
    rows = [
        jnp.stack([direct(x, quarter, (above, left)) for left, quarter in zip(sides, halves(half, 1), strict=True)], 3)
        for above, half in zip(sides, halves(kernel, 0), strict=True)
    ]
    return jnp.stack(rows, 2).reshape(batch, 2 * height, 2 * width, kernel.shape[-1])


# What differentiation stores is x and the kernel, whichever way is taken: the sums of the fast ones are made again.
_CONVOLVE = jax.checkpoint(partial(jax.lax.platform_dependent, cpu=winograd, default=direct), prevent_cse=False)
_CONVOLVE_REPEATED = jax.checkpoint(
    partial(jax.lax.platform_dependent, cpu=repeated_in_quarters, default=repeated), prevent_cse=False
)


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Padding, **options: Any) -> Array:
    """Convolve by `winograd` on a CPU, for an even height and MIN_CHANNELS; else by XLA."""
    if _plain(kernel, strides, padding, options) and x.shape[1] % 2 == 0 and min(kernel.shape[2:]) >= MIN_CHANNELS:
        return _CONVOLVE(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def convolve_repeated(x: Array, kernel: Array, strides: Sequence[int], padding: Padding, **options: Any) -> Array:
    """Convolve `repeat_pixels`, by `repeated_in_quarters` on a CPU; else by XLA."""
    if _plain(kernel, strides, padding, options):
        return _CONVOLVE_REPEATED(x, kernel)
    return jax.lax.conv_general_dilated(repeat_pixels(x), kernel, strides, padding, **options)


def _plain(kernel: Array, strides: Sequence[int], padding: Padding, options: dict[str, Any]) -> bool:
    """Return True if the fast implementations cover this convolution: 3x3, stride 1, SAME, 32 bits or more."""
    usual = kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and padding == "SAME" and options == PLAIN
    return usual and jnp.finfo(kernel.dtype).bits >= 32
