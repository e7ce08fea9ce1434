"""Dead leaves: a function of seed and place, the same at all scales, and right by a slow painter."""

import numpy as np
import pytest

from diffusion_jax.data import dead_leaves as leaves
from diffusion_jax.data.dead_leaves import dead_leaves


def test_image_is_a_function_of_seed_and_place():
    source = dead_leaves("train", (16, 12))
    x0, label = source.read(np.arange(200))
    assert x0.shape == (200, 16, 12, 1) and x0.dtype == np.uint8 and (label == -1).all()
    again, _ = source.read(np.array([199, 3]))
    np.testing.assert_array_equal(again, x0[[199, 3]])
    for other in (dead_leaves("heldout", (16, 12)), dead_leaves("train", (16, 12), seed=1)):
        assert (other.read(np.arange(200))[0] != x0).any(axis=(1, 2, 3)).all()


def test_images_equal_a_disc_by_disc_rendering():
    shape, radii, place = (9, 11), (1.0, 8.0), 7
    image = dead_leaves("train", shape, radii).read(np.array([place]))[0][0, ..., 0]
    share, table, discs = leaves._radius_table(shape, radii)
    drawn = np.random.Generator(np.random.Philox(key=leaves._key((0, 0), place))).random((discs + 1, 4), np.float32)
    painted = np.full(shape, int(drawn[0, 3] * 256))
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    for radius, top, left, grey in drawn[1:].astype(np.float64):
        r = np.interp(radius, share, table)
        top, left = top * (shape[0] + 2 * r) - r, left * (shape[1] + 2 * r) - r
        painted[(y - top) ** 2 + (x - left) ** 2 <= r**2] = int(grey * 256)
    assert (painted != image).sum() <= 1  # float32 may put a pixel on the other side of an edge


def test_greys_are_uniform_at_every_pixel():
    x0 = dead_leaves("train", (16, 16)).read(np.arange(3000))[0][..., 0] / 255.0
    error = (1 / 12 / 3000) ** 0.5
    np.testing.assert_allclose(x0.mean(axis=0), 0.5, atol=5 * error)
    across = [np.corrcoef(x0[:, i, 7], x0[:, i, 8])[0, 1] for i in (0, 8, 15)]
    down = [np.corrcoef(x0[:, 7, i], x0[:, 8, i])[0, 1] for i in (0, 8, 15)]
    np.testing.assert_allclose(across + down, np.mean(across + down), atol=5 * 3000**-0.5)


def test_probability_that_two_pixels_are_equal():
    """P(same leaf) at distance d is A/(2 a - A), a = mean area and A = mean overlap of a disc and itself moved by d.

    Source: Lee, Mumford and Huang 2001, section 4: the first leaf to cover either of the two pixels covers both.
    """
    small, large, d = 1.0, 8.0, 3.0
    x0 = dead_leaves("train", (16, 16), (small, large)).read(np.arange(3000))[0][..., 0].astype(int)
    same = (x0[:, :, :-3] == x0[:, :, 3:]).mean()
    r = np.geomspace(small, large, 20001)
    h = np.minimum(d / (2 * r), 1)
    overlap = 2 * r**2 * (np.arccos(h) - h * np.sqrt(1 - h**2))
    a, both = (np.trapezoid(r**-3 * f, r) for f in (np.pi * r**2, overlap))
    chance = both / (2 * a - both)
    assert same == pytest.approx(chance + (1 - chance) / 256, abs=0.01)


@pytest.mark.parametrize("options", [{"radii": (4.0, 2.0)}, {"radii": (0.0, 2.0)}, {"size": 0}, {"shape": (0, 4)}])
def test_invalid_options_raise(options):
    with pytest.raises(ValueError, match="dead_leaves"):
        dead_leaves("train", **options)
