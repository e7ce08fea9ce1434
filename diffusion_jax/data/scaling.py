"""Grey levels at rest and the model's range [-1, 1]: the one place that turns the first into the second and back."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def to_model(x: ArrayLike, levels: int) -> Array:
    """Grey levels 0 … levels - 1 to float32 in [-1, 1]: 2 x / (levels - 1) - 1. With levels = 0, x itself."""
    if not _grey(levels):
        return jnp.asarray(x)
    return jnp.asarray(x, jnp.float32) * (2 / (levels - 1)) - 1


def from_model(x: ArrayLike, levels: int) -> Array:
    """The nearest grey level, uint8, of x clipped to [-1, 1]; inverts `to_model`. With levels = 0, x itself."""
    x = jnp.asarray(x)
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


def _grey(levels: int) -> bool:
    if levels != 0 and not 2 <= levels <= 256:
        raise ValueError(f"levels={levels} must be 2 … 256 grey levels, or 0 for data that are floats already")
    return levels != 0
