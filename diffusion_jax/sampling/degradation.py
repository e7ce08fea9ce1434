"""Degradations of images for restoration: a mask over the coordinates of an orthonormal rotation.

The rotation is the identity for missing pixels; for colours the grey value of a pixel is one of its three coordinates;
for resolution the mean of a block of pixels is one of its coordinates. The Gaussian process is invariant under
rotations, so that a `rotated` model samples in these coordinates, and `sampling.posterior` applies. Reference: Song et
al. 2021, appendix I.2 and I.3, for colours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.prediction import Denoiser, Prediction
from diffusion_jax.process.base import Array, Level

Rotate = Callable[[Array], Array]


class Degradation(NamedTuple):
    """Mask of the known elements, and the coordinates that it refers to."""

    mask: np.ndarray
    """bool [*D], over the coordinates."""
    rotate: Rotate
    """From pixels [B,*D] to the coordinates, orthonormal."""
    back: Rotate
    """From the coordinates to pixels."""

    def show(self, y: Array) -> Array:
        """Return the degraded example [B,*D] in pixels: the coordinates y [B,*D] with 0 for unknown ones."""
        return self.back(jnp.where(self.mask, y, 0))


def noise(shape: tuple[int, ...]) -> Degradation:
    """Observation of every element, with noise."""
    return Degradation(np.ones(shape, bool), _same, _same)


def missing(shape: tuple[int, ...], mask: str | np.ndarray = "right", share: float = 0.5, seed: int = 0) -> Degradation:
    """Mask of missing pixels, for inpainting.

    Masks by name cover all channels of a pixel.

    Args:
        shape: shape of an example.
        mask: a name in MASKS, or an array of booleans, True where a pixel is known, with the shape of an example or,
            for images, [H,W].
        share: share of missing pixels, in (0, 1), for the masks "random" and "box" (a box in the middle).
        seed: seed of the mask "random".

    Raises ValueError for other masks or shares.
    """
    places = shape[:-1] if len(shape) > 1 else shape
    if seed < 0:
        raise ValueError(f"seed={seed}: must be at least 0")
    if not isinstance(mask, str):
        known = _checked(np.asarray(mask), shape, places)
    elif mask not in MASKS:
        raise ValueError(f"mask={mask!r} is not known; use one of {', '.join(MASKS)}, or an array of booleans")
    elif not 0 < share < 1:
        raise ValueError(f"share={share}: must be between 0 and 1, the share of missing pixels")
    else:
        known = MASKS[mask](places, share, seed)
    if known.shape != shape:
        known = np.broadcast_to(known[..., None], shape)
    if known.all() or not known.any():
        name = f"{mask!r} " if isinstance(mask, str) else ""
        raise ValueError(f"mask: {name}leaves {'everything' if known.all() else 'nothing'} known; use another")
    return Degradation(known, _same, _same)


def _half(places: tuple[int, ...], share: float, seed: int, left: bool = False) -> np.ndarray:
    """Mask without the right half of the last axis, or the left half."""
    first = np.arange(places[-1]) < places[-1] // 2
    return np.broadcast_to(~first if left else first, places)


def _random(places: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    """Mask without a random share of the pixels."""
    size = int(np.prod(places))
    order = np.random.default_rng(seed).permutation(size).reshape(places)
    return order >= round(share * size)


def _box(places: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    """Mask without a box in the middle that has about `share` of the pixels."""
    side = share ** (1 / len(places))
    known = np.zeros(places, bool)
    for axis, size in enumerate(places):
        width = max(1, round(side * size))
        inside = np.arange(size) - (size - width) // 2
        outside = (inside < 0) | (inside >= width)
        known |= outside.reshape([-1 if i == axis else 1 for i in range(len(places))])
    return known


MASKS: dict[str, Callable[[tuple[int, ...], float, int], np.ndarray]] = {
    "right": _half,
    "left": lambda places, share, seed: _half(places, share, seed, left=True),
    "random": _random,
    "box": _box,
}
"""name -> (places, share, seed) -> known, bool [*places]. The first two ignore share and seed."""


def _checked(known: np.ndarray, shape: tuple[int, ...], places: tuple[int, ...]) -> np.ndarray:
    if known.dtype != bool and not np.isin(known, (0, 1)).all():
        raise ValueError("mask: has values other than 0 and 1; use booleans, True where a pixel is known")
    if known.shape not in (shape, places):
        raise ValueError(f"mask: has shape {known.shape}, but the examples {shape}; use {places} or {shape}")
    return known.astype(bool)


def colour(shape: tuple[int, ...]) -> Degradation:
    """Missing colours: the mean of the channels of each pixel is known. Raises ValueError for grey images."""
    if len(shape) != 3 or shape[-1] < 2:
        raise ValueError(f"colours can be missing only from images [H,W,C] with C > 1, not from examples of {shape}")
    basis = averaging(shape[-1])
    mask = np.broadcast_to(np.arange(shape[-1]) == 0, shape)
    return Degradation(
        mask,
        lambda x: jnp.matmul(x, jnp.asarray(basis, x.dtype).T, precision="highest"),
        lambda y: jnp.matmul(y, jnp.asarray(basis, y.dtype), precision="highest"),
    )


def detail(shape: tuple[int, ...], factor: int = 2) -> Degradation:
    """Missing detail: only the means of blocks are known, for each channel.

    A block has factor x factor pixels. The coordinates of a block are stored at its pixels, the mean first. Raises
    ValueError.
    """
    if len(shape) != 3 or factor < 2 or shape[0] % factor or shape[1] % factor:
        raise ValueError(f"factor={factor} must be 2 or more and divide height and width of images, here {shape}")
    height, width, channels = shape
    basis = averaging(factor**2)
    first = (np.arange(height) % factor == 0)[:, None] & (np.arange(width) % factor == 0)

    def turn(x: Array, matrix: np.ndarray) -> Array:
        blocks = x.reshape(-1, height // factor, factor, width // factor, factor, channels)
        flat = jnp.moveaxis(blocks, 2, 3).reshape(-1, height // factor, width // factor, factor**2, channels)
        turned = jnp.einsum("ij,bhwjc->bhwic", jnp.asarray(matrix, x.dtype), flat, precision="highest")
        blocks = turned.reshape(-1, height // factor, width // factor, factor, factor, channels)
        return jnp.moveaxis(blocks, 3, 2).reshape(x.shape)

    mask = np.broadcast_to(first[..., None], shape)
    return Degradation(mask, lambda x: turn(x, basis), lambda y: turn(y, basis.T))


def averaging(size: int) -> np.ndarray:
    """Return the orthonormal type-II cosine transform [size,size].

    Row 0 is the mean times sqrt(size), row k > 0 is sqrt(2/size) cos(pi k (j + 1/2)/size).
    """
    k, j = np.mgrid[:size, :size]
    return np.where(k == 0, 1, np.sqrt(2) * np.cos(np.pi * k * (j + 0.5) / size)) / np.sqrt(size)


def rotated(predict: Denoiser, degradation: Degradation) -> Denoiser:
    """Wrap a denoiser to work in the coordinates of a degradation. The head, which works on pixels, is dropped."""

    def predict_rotated(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        prediction = predict(params, degradation.back(x_t), level, label, keys)
        return Prediction(degradation.rotate(prediction.x0), degradation.rotate(prediction.eps), None)

    return predict_rotated


def _same(x: Array) -> Array:
    return x
