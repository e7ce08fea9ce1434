"""Data source: dead leaves, which are occluding discs of random grey.

The radii follow a power law, so there is no preferred scale. The model of Lee, Mumford and Huang 2001, which
Sohl-Dickstein et al. 2015 use without giving their parameters. Images are generated when read: an image is a function
of (seed, place), so a set of any size needs no storage. A pixel has the grey of the front-most disc that contains its
centre. The centres of the discs are uniform in the plane; a leaf of random grey lies behind all others.
"""

import functools
import math

import numpy as np

from diffusion_jax.data.source import SPLITS, Source, check_split

LAYERS = 9
"""Mean number of discs over a pixel; the leaf behind all others is visible at a share exp(-9) of the pixels."""


def dead_leaves(
    split: str, shape: tuple[int, int] = (32, 32), radii: tuple[float, float] = (2.0, 32.0), size: int = 1_000_000,
    seed: int = 0,
) -> Source:  # fmt: skip
    """Return a split of dead-leaves images, uint8 [H,W,1] with 256 levels.

    radii: least and greatest radius in pixels; the density between them is proportional to r^-3. size: images of the
    split, each with a random stream of its own. The grey of a leaf is uniform over the levels.
    """
    check_split(split)
    if len(shape) != 2 or len(radii) != 2 or seed < 0:
        raise ValueError(
            f"data.dead_leaves: shape={tuple(shape)} and radii={tuple(radii)} must be two numbers each, and "
            f"seed={seed} at least 0"
        )
    height, width = shape
    small, large = radii
    if not (height >= 1 and width >= 1 and 0 < small < large and size >= 1):
        raise ValueError(
            f"data.dead_leaves: shape={tuple(shape)}, radii={tuple(radii)} and size={size} must be at least 1, and "
            "0 < radii[0] < radii[1]"
        )
    read = functools.partial(_read, (seed, SPLITS.index(split)), (height, width), (float(small), float(large)))
    return Source(f"dead_leaves/{split}", (height, width, 1), 256, 0, size, read, on_disk=False)


def _read(
    stream: tuple[int, int], shape: tuple[int, int], radii: tuple[float, float], places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    images = np.concatenate([_images(stream, shape, radii, part) for part in _parts(places)])
    return images, np.full(len(places), -1, np.int32)


def _parts(places: np.ndarray, most: int = 64) -> list[np.ndarray]:
    """Split places into parts whose intermediate arrays fit the CPU cache."""
    return [places[i : i + most] for i in range(0, len(places), most)] or [places]


@functools.lru_cache(maxsize=8)
def _radius_table(shape: tuple[int, int], radii: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the distribution of the radii of discs that can touch an image.

    (cumulative distribution, radii, number of discs). The centres lie in the image's box extended by r on each side, so
    the density of r is r^-3 (H + 2r)(W + 2r). The number of discs gives LAYERS discs over a pixel on average.
    """
    (height, width), (small, large) = shape, radii
    r = np.geomspace(small, large, 4001)
    rate, area = r**-3 * (height + 2 * r) * (width + 2 * r), r**-3 * math.pi * r**2
    middle = np.diff(r) / 2
    share = np.append(0, np.cumsum((rate[1:] + rate[:-1]) * middle))
    covered = ((area[1:] + area[:-1]) * middle).sum()  # times a pixel is covered, by as many discs as share[-1]
    return share / share[-1], r, math.ceil(LAYERS * share[-1] / covered)


def _images(
    stream: tuple[int, int], shape: tuple[int, int], radii: tuple[float, float], places: np.ndarray
) -> np.ndarray:
    (height, width), count = shape, len(places)
    share, table, discs = _radius_table(shape, radii)
    drawn = np.empty((count, discs + 1, 4), np.float32)
    for row, place in enumerate(places):
        np.random.Generator(np.random.Philox(key=_key(stream, int(place)))).random(out=drawn[row], dtype=np.float32)
    radius = np.interp(drawn[..., 0], share, table).astype(np.float32)
    top, left = (drawn[..., 1 + axis] * (shape[axis] + 2 * radius) - radius for axis in (0, 1))
    grey = (drawn[..., 3] * 256).astype(np.uint8)
    image = np.repeat(grey[:, :1], height * width, axis=1).ravel()
    radius, top, left, grey = (value[:, 1:].ravel() for value in (radius, top, left, grey))
    start = np.repeat(np.arange(count, dtype=np.int32) * (height * width), discs)

    # A disc covers rows, a row covers pixels: those whose centres lie inside. Later discs lie in front.
    first = np.maximum(np.ceil(top - radius - 0.5), 0).astype(np.int32)
    rows = np.maximum(np.minimum(np.floor(top + radius - 0.5), height - 1).astype(np.int32) - first + 1, 0)
    disc, y = np.repeat(np.arange(len(rows), dtype=np.int32), rows), _each(rows, first)
    half = np.sqrt(np.maximum(radius[disc] ** 2 - (y + np.float32(0.5) - top[disc]) ** 2, 0))
    begin = np.maximum(np.ceil(left[disc] - half - 0.5), 0).astype(np.int32)
    pixels = np.maximum(np.minimum(np.floor(left[disc] + half - 0.5), width - 1).astype(np.int32) - begin + 1, 0)
    image[_each(pixels, start[disc] + y * width + begin)] = np.repeat(grey[disc], pixels)
    return image.reshape(count, height, width, 1)


def _each(counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Concatenate the integer ranges [first, first + counts)."""
    before = np.cumsum(counts, dtype=np.int32) - counts
    each = np.repeat(first - before, counts)
    each += np.arange(len(each), dtype=np.int32)
    return each


def _key(stream: tuple[int, int], place: int) -> np.ndarray:
    """Return the Philox key of an image, unique over seeds, splits and places."""
    seed, split = stream
    return np.array([seed, 2 * place + split], np.uint64)
