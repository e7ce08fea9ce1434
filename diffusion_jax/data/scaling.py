"""Grey levels at rest and the model's range: the one place that turns the first into the second and back.

The range is [-1, 1], or what a mean and a standard deviation within [-1, 1] make of it: unit variance, for the bound of
2015, which also wants the grey levels spread out by noise of their own width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def to_model(x: ArrayLike, levels: int, mean: float = 0.0, std: float = 1.0) -> Array:
    """Grey levels 0 … levels - 1 to float32, (2 x / (levels - 1) - 1 - mean) / std; with levels = 0, (x - mean) / std.

    The mean and std of the defaults leave the numbers in [-1, 1].
    """
    if _grey(levels):
        x = jnp.asarray(x, jnp.float32) * (2 / (levels - 1)) - 1
    return jnp.asarray(x) if (mean, std) == (0, 1) else (jnp.asarray(x) - mean) / std


def from_model(x: ArrayLike, levels: int, mean: float = 0.0, std: float = 1.0) -> Array:
    """The nearest grey level, uint8; inverts `to_model`, after clipping to the levels. With levels = 0, floats."""
    x = jnp.asarray(x)
    if (mean, std) != (0, 1):
        x = x * std + mean
    if not _grey(levels):
        return x
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.round((jnp.clip(x, -1, 1) + 1) * ((levels - 1) / 2)).astype(jnp.uint8)


def to_rgb(x: np.ndarray, levels: int) -> np.ndarray:
    """Grey levels [N,H,W,C] as uint8 0 … 255 with three channels, as other programs want them: grey is repeated."""
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not _grey(levels):
        raise ValueError(f"images [N,H,W,1 or 3] with grey levels can become RGB, not {x.shape} with levels={levels}")
    scaled = np.round(np.asarray(x, np.float32) * (255 / (levels - 1))).astype(np.uint8)
    return scaled if scaled.shape[-1] == 3 else scaled.repeat(3, axis=-1)


def dequantised(x: Array, levels: int, std: float, keys: Array) -> Array:
    """x [B,*D] of `to_model` and uniform noise as wide as a grey level, each example's from its own key.

    A density of x is then one that grey levels can be told by. Source: Theis et al. 2016, section 3.1.
    """
    width = 2 / ((levels - 1) * std)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -width / 2, width / 2))
    return x + uniform(keys)


def _grey(levels: int) -> bool:
    if levels != 0 and not 2 <= levels <= 256:
        raise ValueError(f"levels={levels} must be 2 … 256 grey levels, or 0 for data that are floats already")
    return levels != 0
