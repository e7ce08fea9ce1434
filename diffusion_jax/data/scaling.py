"""Conversion between stored grey levels and the range of the model.

The range is [-1, 1]. With a mean and a standard deviation, (x - mean) / std has unit variance, which the bound of 2015
assumes; it also assumes a density, hence uniform noise of the width of a grey level (`dequantised`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def to_model(x: ArrayLike, levels: int, mean: float = 0.0, std: float = 1.0) -> Array:
    """Convert grey levels to the range of the model, float32.

    x: 0 … levels - 1. Returns (2 x / (levels - 1) - 1 - mean) / std, or (x - mean) / std for floats (levels = 0). The
    default mean and std give [-1, 1]. Raises ValueError.
    """
    if _grey(levels):
        x = jnp.asarray(x, jnp.float32) * (2 / (levels - 1)) - 1
    return jnp.asarray(x) if (mean, std) == (0, 1) else (jnp.asarray(x) - mean) / std


def from_model(x: ArrayLike, levels: int, mean: float = 0.0, std: float = 1.0) -> Array:
    """Convert the range of the model to the nearest grey levels, uint8, with clipping.

    The inverse of `to_model`. For levels = 0 floats, without clipping. Raises ValueError.
    """
    x = jnp.asarray(x)
    if (mean, std) != (0, 1):
        x = x * std + mean
    if not _grey(levels):
        return x
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.round((jnp.clip(x, -1, 1) + 1) * ((levels - 1) / 2)).astype(jnp.uint8)


def to_rgb(x: np.ndarray, levels: int) -> np.ndarray:
    """Convert grey levels [N,H,W,C] to RGB, uint8 0 … 255. Raises ValueError."""
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not _grey(levels):
        raise ValueError(f"RGB needs images [N,H,W,1 or 3] with grey levels (got {x.shape}, levels={levels})")
    scaled = np.round(np.asarray(x, np.float32) * (255 / (levels - 1))).astype(np.uint8)
    return scaled if scaled.shape[-1] == 3 else scaled.repeat(3, axis=-1)


def dequantised(x: Array, levels: int, std: float, keys: Array) -> Array:
    """Add uniform noise of the width of a grey level.

    x: [B,*D] of `to_model`. A density of the result bounds the probability of the grey levels. Reference: Theis et al.
    2016, section 3.1. keys [B]: one per example.
    """
    width = 2 / ((levels - 1) * std)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -width / 2, width / 2))
    return x + uniform(keys)


def check_levels(levels: int, name: str = "levels") -> None:
    """Raise ValueError, with the name, unless these are grey levels, or 0 for floats."""
    if levels != 0 and not 2 <= levels <= 256:
        raise ValueError(f"{name}={levels}: must be 2 … 256 grey levels, or 0 for floats")


def _grey(levels: int) -> bool:
    check_levels(levels)
    return levels != 0


def is_plain(data: Any) -> bool:
    """Return True for data in [-1, 1], neither scaled nor dequantised. data: the section of a config."""
    return (data.mean, data.std, data.dequantise) == (0, 1, False)
