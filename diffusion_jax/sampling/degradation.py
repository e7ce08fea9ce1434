"""What may have been done to an image, so that it has to be restored: a mask, in coordinates of its own.

Known are the elements of a mask after an orthonormal rotation: none for missing pixels; of the colours, where the grey
of a pixel is one of three coordinates; of the pixels of a block, where their mean is one. The Gaussian process does not
change under rotations, so sampling goes on in these coordinates with a `rotated` model, and all of `sampling.posterior`
applies. Source: Song et al. 2021, appendix I.2 and I.3, for colours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.prediction import Denoiser, Prediction
from diffusion_jax.process.base import Array, Level

Rotate = Callable[[Array], Array]


class Degradation(NamedTuple):
    """What is known of x0, and in which coordinates."""

    mask: np.ndarray
    """bool [*D], over the coordinates."""
    rotate: Rotate
    """From pixels [B,*D] to the coordinates, orthonormal."""
    back: Rotate
    """From the coordinates to pixels."""

    def show(self, y: Array) -> Array:
        """What is left of an example, [B,*D] in pixels: the coordinates y [B,*D] with 0 for those not known."""
        return self.back(jnp.where(self.mask, y, 0))


def noise(shape: tuple[int, ...]) -> Degradation:
    """Every element is known, but for its noise."""
    return Degradation(np.ones(shape, bool), _same, _same)


def missing(shape: tuple[int, ...], mask: str = "right", share: float = 0.5, seed: int = 0) -> Degradation:
    """Pixels are missing, in all their channels. mask says which: a name of MASKS, or the path of a .npy file.

    The file holds booleans of the shape of an example, or [H,W] for images: True is known. share: of the pixels that
    are missing, for "random" (drawn with `seed`) and "box" (in the middle). Raises ValueError.
    """
    places = shape[:-1] if len(shape) > 1 else shape
    if mask.endswith(".npy"):
        known = _read(mask, shape, places)
    elif mask not in MASKS:
        raise ValueError(f"mask={mask!r} is not known; use one of {', '.join(MASKS)}, or the path of a .npy file")
    elif not 0 < share < 1:
        raise ValueError(f"share={share} of the pixels cannot be missing; use a number between 0 and 1")
    else:
        known = MASKS[mask](places, share, seed)
    if known.shape != shape:
        known = np.broadcast_to(known[..., None], shape)
    if known.all() or not known.any():
        raise ValueError(f"mask={mask!r} leaves {'everything' if known.all() else 'nothing'} known; use another")
    return Degradation(known, _same, _same)


def _half(places: tuple[int, ...], share: float, seed: int, left: bool = False) -> np.ndarray:
    """The right half of the last axis is missing, or the left one."""
    first = np.arange(places[-1]) < places[-1] // 2
    return np.broadcast_to(~first if left else first, places)


def _random(places: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    """A share of the pixels is missing, drawn anew for another seed."""
    size = int(np.prod(places))
    order = np.random.default_rng(seed).permutation(size).reshape(places)
    return order >= round(share * size)


def _box(places: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    """A box in the middle is missing, with the proportions of the whole and about a share of its pixels."""
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


def _read(path: str, shape: tuple[int, ...], places: tuple[int, ...]) -> np.ndarray:
    known = np.load(path, allow_pickle=False)
    if known.dtype != bool and not np.isin(known, (0, 1)).all():
        raise ValueError(f"{path} holds {known.dtype}, not a mask; use booleans, True where a pixel is known")
    if known.shape not in (shape, places):
        raise ValueError(f"{path}: the mask has shape {known.shape}, but the examples {shape}; use {places} or {shape}")
    return known.astype(bool)


def colour(shape: tuple[int, ...]) -> Degradation:
    """The colours are missing: of each pixel the mean of its channels is known. Raises ValueError for grey images."""
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
    """Detail is missing: of each block of factor x factor pixels the mean is known, channel by channel.

    The coordinates of a block stand in the place of its pixels, the mean first. Raises ValueError.
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
    """An orthonormal matrix [size,size] whose first row takes the mean, times sqrt(size): the type-II cosine transform.

    Row k > 0 is sqrt(2/size) cos(pi k (j + 1/2)/size).
    """
    k, j = np.mgrid[:size, :size]
    return np.where(k == 0, 1, np.sqrt(2) * np.cos(np.pi * k * (j + 0.5) / size)) / np.sqrt(size)


def rotated(predict: Denoiser, degradation: Degradation) -> Denoiser:
    """The model in the coordinates of a degradation; a head, which belongs to pixels, is left out."""

    def predict_rotated(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        found = predict(params, degradation.back(x_t), level, label, keys)
        return Prediction(degradation.rotate(found.x0), degradation.rotate(found.eps), None)

    return predict_rotated


def _same(x: Array) -> Array:
    return x
