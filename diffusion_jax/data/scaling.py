"""Grey levels at rest and the model's range [-1, 1]: the one place that turns the first into the second and back."""

import jax.numpy as jnp
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


def _grey(levels: int) -> bool:
    if levels != 0 and not 2 <= levels <= 256:
        raise ValueError(f"levels={levels} must be 2 … 256 grey levels, or 0 for data that are floats already")
    return levels != 0
