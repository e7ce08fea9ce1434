"""Geometric augmentation of training images, with a label for the network.

An image is mirrored by coin flips, and then resampled at the places A⁻¹ y of its pixels y, measured from its centre
in pixels to the right and downwards, where

    A⁻¹ y = 1/s R(angle) R(axis)ᵀ diag(1/r, r) R(axis) (y - shift),      R(a) = [[cos a, -sin a], [sin a, cos a]].

Resampling is linear at twice the resolution, between the two halves of an orthogonal wavelet filter, so that the
identity returns the image up to rounding. Beyond its edges an image goes on as its reflection.

Reference: Karras et al. 2022 (EDM), appendix F.2 and table 6; the pipeline without colours of Karras et al. 2020
(StyleGAN2-ADA), appendix B.
"""

import zlib
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates

LABEL_DIMS = 9
"""Numbers in the label of an augmentation."""
DEVIATION = 0.2
"""Standard deviation of the binary logarithms of the scale s and the ratio r."""
SHIFT = 0.125
"""Standard deviation of the shift, relative to the size of the image."""
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""Low-pass filter of the least asymmetric wavelet with six vanishing moments (Daubechies 1992, table 6.3)."""
EDGE = len(SYM6) // 4
"""Pixels beyond each edge of the result that its filter reaches."""


class Transform(NamedTuple):
    """Geometric transforms of a batch; all zeros for the identity."""

    mirror: Array
    """1 for a reflection left to right, and one upside down; [B,2]."""
    scale: Array
    """log2 s / DEVIATION [B]."""
    angle: Array
    """Angle of the rotation in radians, [B]."""
    stretch: Array
    """log2 r / DEVIATION [B]."""
    axis: Array
    """Direction of the stretch in radians, [B]."""
    shift: Array
    """Shift to the right and downwards, divided by SHIFT times the width and the height; [B,2]."""


def augment(x0: Array, keys: Array, probability: float) -> tuple[Array, Array]:
    """Return images [B,H,W,C] after random transforms, and their labels [B,LABEL_DIMS]; keys [B]: one per example."""
    stream = zlib.crc32(b"augmentation")  # keeps it apart from noise and dropout, which use the same keys
    drawn = jax.vmap(lambda key: draw(jax.random.fold_in(key, stream), probability))(keys)
    return transform(x0, drawn), label(drawn)


def draw(key: Array, probability: float) -> Transform:
    """Return the transform of one example, fields without [B].

    The image is mirrored left to right by a coin flip. Every other transform happens with this probability: upside down
    by a coin flip, scale, stretch and shift normal, the angle uniform; the axis is uniform for one half of the
    stretches and 0 for the other half.
    """
    key_coins, key_done, key_normal, key_angles = jax.random.split(key, 4)
    coins = jax.random.bernoulli(key_coins, 0.5, (3,))
    mirrored, scaled, rotated, stretched, shifted = jax.random.bernoulli(key_done, probability, (5,))
    normal = jax.random.normal(key_normal, (4,))
    angle, axis = jax.random.uniform(key_angles, (2,), minval=-jnp.pi, maxval=jnp.pi)
    return Transform(
        mirror=jnp.stack([coins[0], coins[1] & mirrored]).astype(normal.dtype),
        scale=normal[0] * scaled,
        angle=angle * rotated,
        stretch=normal[1] * stretched,
        axis=axis * coins[2],
        shift=normal[2:] * shifted,
    )


def label(done: Transform) -> Array:
    """Return the labels [B,LABEL_DIMS] of transforms; zeros for the identity.

    They are both mirrors, scale, cos(angle) - 1, sin(angle), stretch · cos(axis), stretch · sin(axis), both shifts.
    """
    turned = jnp.cos(done.angle) - 1, jnp.sin(done.angle)
    stretched = done.stretch * jnp.cos(done.axis), done.stretch * jnp.sin(done.axis)
    return jnp.concatenate([done.mirror, jnp.stack([done.scale, *turned, *stretched], 1), done.shift], 1)


def transform(x: Array, done: Transform) -> Array:
    """Return images [B,H,W,C] transformed; sizes above 1.

    Each edge goes on for one reflection of the image, beyond which all is 0.
    """
    for axis in (2, 1):
        mirrored = done.mirror[:, 2 - axis, None, None, None] > 0
        x = jnp.where(mirrored, jnp.flip(x, axis), x)
    _, height, width, _ = x.shape
    multiply = partial(jnp.einsum, "bhwc,uh,vw->buvc", precision=jax.lax.Precision.HIGHEST)
    up = [jnp.asarray(doubling(size), x.dtype) for size in (height, width)]
    down = [jnp.asarray(halving(size), x.dtype) for size in (height, width)]
    at = places(done, height, width)

    def interpolate(image: Array, at: Array) -> Array:
        return map_coordinates(image, list(at), order=1, mode="constant")

    doubled = multiply(x, *up)
    return multiply(jax.vmap(jax.vmap(interpolate, (2, None), 2))(doubled, at.astype(x.dtype)), *down)


def places(done: Transform, height: int, width: int) -> Array:
    """Return the rows and columns [B,2,2(H+2 EDGE),2(W+2 EDGE)] of `doubling` from which the result is made."""
    scale, ratio = (jnp.exp2(DEVIATION * log) for log in (done.scale, done.stretch))
    stretched = jnp.stack([1 / ratio, ratio], -1)[:, :, None] * rotation(done.axis)
    inverse = rotation(done.angle - done.axis) @ stretched / scale[:, None, None]
    last = np.array([width - 1, height - 1])
    rows, columns = (np.arange(2 * (size + 2 * EDGE)) / 2 - EDGE for size in (height, width))
    y = np.stack(np.meshgrid(columns, rows), -1) - last / 2
    y = y - done.shift[:, None, None] * np.array([width, height]) * SHIFT
    x = jnp.einsum("bij,bhwj->bihw", inverse, y, precision=jax.lax.Precision.HIGHEST)
    return 2 * (x + 1.5 * last[:, None, None])[:, ::-1]


def rotation(angle: Array) -> Array:
    """Return the matrices [B,2,2] of rotations by an angle [B]."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)


def doubling(size: int) -> np.ndarray:
    """Return the matrix [2(3 size - 2),size] that reflects at both ends and doubles the resolution.

    Element 2 (i + size - 1) of its result is at place i.
    """
    reflected = np.pad(np.eye(size), ((size - 1, size - 1), (0, 0)), mode="reflect")
    return synthesis(len(reflected)) @ reflected


def halving(size: int) -> np.ndarray:
    """Return the matrix [size,2(size + 2 EDGE)] that halves the resolution and leaves the edges out."""
    return synthesis(size + 2 * EDGE).T[EDGE:-EDGE]


def synthesis(size: int) -> np.ndarray:
    """Return the matrix [2 size,size] that puts a low-pass filter around every element. S' S = 1 but for both ends."""
    matrix = np.zeros((2 * size, size))
    for i, weight in enumerate(SYM6):
        row = 2 * np.arange(size) + i - len(SYM6) // 2 + 1
        inside = (row >= 0) & (row < 2 * size)
        matrix[row[inside], np.arange(size)[inside]] = weight
    return matrix
