"""Pictures hold every pixel in its place, and figures are written in every format."""

import builtins
import math

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.runs import pictures, plots


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "shape, pixels",
    [
        ((64, 8, 8, 1), (8 * 66 + 2, 8 * 66 + 2)),  # enlarged 8 times
        ((10, 28, 28, 1), (3 * 86 + 2, 4 * 86 + 2)),  # 3 times
        ((1, 32, 32, 3), (68, 68, 3)),
        ((9, 64, 64, 3), (3 * 66 + 2, 3 * 66 + 2, 3)),
        ((6, 16, 24, 3), (3 * 50 + 2, 2 * 74 + 2, 3)),
        ((4, 100, 10, 1), (104, 4 * 12 + 2)),  # tall images stand beside each other
        ((4, 8, 8, 2), (2 * 34 + 2, 2 * 66 + 2)),  # other numbers of channels: side by side, in grey
        ((500, 64, 64, 1), (20 * 66 + 2, 20 * 66 + 2)),  # the first 400
    ],
)
def test_shape_of_a_picture(shape, pixels):
    assert pictures.picture(np.zeros(shape, np.uint8), 256).shape == pixels


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_where_it_belongs(levels, channels):
    samples = np.random.default_rng(0).integers(0, levels, (7, 16, 24, channels)).astype(np.uint8)
    picture = pictures.grid(samples, levels).reshape(3 * 50 + 2, 3 * 74 + 2, channels)
    expected = np.full_like(picture, 128)
    for n in range(7):
        for i in range(16 * 3):
            for j in range(24 * 3):
                shade = samples[n, i // 3, j // 3] * 255.0 / (levels - 1)
                expected[n // 3 * 50 + 2 + i, n % 3 * 74 + 2 + j] = np.round(shade)
    np.testing.assert_array_equal(picture, expected)
    assert picture.dtype == np.uint8


def test_images_without_levels_go_from_black_at_minus_one_to_white_at_one():
    samples = np.linspace(-1, 1, 16 * 16, dtype=np.float32).reshape(1, 16, 16, 1)
    picture = pictures.picture(samples, 0)
    inside = picture[2:-2:4, 2:-2:4]
    assert inside[0, 0] == 0 and inside[-1, -1] == 255 and np.all(np.diff(inside.ravel().astype(int)) >= 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("levels", [0, 17])
def test_images_that_are_not_finite_are_counted(bad, levels, tmp_path):
    samples = np.zeros((6, 8, 8, 3), np.float32)
    samples[1, 2, 3, 0] = samples[4] = bad
    with pytest.raises(FloatingPointError, match="2 of 6"):
        pictures.picture(samples, levels)
    with pytest.raises(FloatingPointError, match="2 of 6"):
        pictures.table(tmp_path / "a.png", samples.reshape(2, 3, 8, 8, 3), levels, ["a", "b"], "t")
    assert not list(tmp_path.iterdir())


def test_vectors_of_levels_are_rows_of_one_picture():
    bits = np.random.default_rng(0).integers(0, 2, (100, 20)).astype(np.uint8)
    picture = pictures.picture(bits, 2)
    assert picture.shape == (404, 84)
    np.testing.assert_array_equal(picture[2:-2:4, 2:-2:4], 255 * bits)


@pytest.mark.parametrize("shape, levels", [((3, 8, 8), 17), ((0, 8, 8, 1), 17), ((3, 8, 8), 0), ((3, 8, 8, 1), 1)])
def test_arrays_that_are_no_images_are_refused(shape, levels):
    with pytest.raises(ValueError):
        pictures.picture(np.zeros(shape), levels)


def test_captions_stand_under_the_images():
    """Every pixel of the images stays; names of any length and letters have the same room."""
    samples = np.random.default_rng(0).integers(0, 17, (4, 8, 8, 1))
    plain = pictures.picture(samples, 17)
    names = ["cat", "x" * 60, "日本 \n\N{PILE OF POO}", ""]
    found = pictures.picture(samples, 17, names)
    height = pictures.CAPTION[1]
    assert found.shape == (plain.shape[0] + 2 * height, plain.shape[1]) and found.dtype == np.uint8
    strips = [*range(66, 66 + height), *range(132 + height, 132 + 2 * height)]
    np.testing.assert_array_equal(np.delete(found, strips, 0), plain)
    inked = [
        (found[top : top + height, left : left + 64] < 128).any() for top in (66, 132 + height) for left in (2, 68)
    ]
    assert inked == [True, True, True, False]
    narrow = pictures.picture(samples[:, :, :1].repeat(3, -1), 17, names)
    assert narrow.ndim == 3 and narrow.shape[1] >= 4 * pictures.CAPTION[0]
    many = np.zeros((pictures.MOST + 5, 64, 64, 1), np.uint8)
    assert pictures.picture(many, 256, ["a"] * len(many)).shape[1] == 20 * 66 + 2
    vectors = np.zeros((4, 2), np.float32)
    np.testing.assert_array_equal(pictures.picture(vectors, 0, names), pictures.picture(vectors, 0))


@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("number", [1, 3000])
def test_scatter_of_vectors(tmp_path, dims, number):
    samples = np.random.default_rng(0).normal(size=(number, dims)).astype(np.float32)
    picture = pictures.picture(samples, 0)
    assert picture.shape == (500, 500, 3) and picture.dtype == np.uint8
    blue = (picture[..., 2] > picture[..., 0].astype(int) + 50).sum()
    assert blue > (1000 if number == 3000 else 5)
    pictures.save_png(tmp_path / "made" / "scatter.png", samples, 0)
    np.testing.assert_array_equal(pixels_of(tmp_path / "made" / "scatter.png"), picture)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan], [1.0, math.nan], [3e38, -3e38]])
def test_scatter_of_a_failed_run(dims, values):
    assert pictures.scatter(np.full((len(values), dims), 1, np.float32) * np.float32(values)[:, None]).shape[2] == 3


def test_scatter_keeps_proportions():
    """A circle is as wide as it is high."""
    angle = np.linspace(0, 2 * np.pi, 4000)
    picture = pictures.scatter(np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(int)
    rows, columns = np.nonzero(picture[..., 2] > picture[..., 0] + 50)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_png(tmp_path, channels):
    samples = np.random.default_rng(0).integers(0, 17, (4, 8, 8, channels)).astype(np.uint8)
    pictures.save_png(tmp_path / "a.png", samples, 17)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), pictures.grid(samples, 17))


def test_tables_hold_the_pixels_of_the_grid(tmp_path):
    """Not resampled, whatever the lengths of the title and the labels."""
    samples = np.random.default_rng(0).integers(0, 17, (3, 5, 8, 8, 1))
    expected = pictures.grid(samples.reshape(-1, 8, 8, 1), 17, columns=5)
    for title in ("t", "a long title, longer than five small images are wide, so that it needs room"):
        pictures.table(tmp_path / "a.png", samples, 17, ["a", "second row", "c"], title)
        drawn = pixels_of(tmp_path / "a.png")[..., 0].astype(int)
        rows, columns = (size - small + 1 for size, small in zip(drawn.shape, expected.shape, strict=True))
        corners = [
            (i, j)
            for i in range(rows)
            for j in range(columns)
            if (drawn[i : i + expected.shape[0], j : j + expected.shape[1]] == expected).all()
        ]
        assert len(corners) == 1


def test_no_global_state_of_matplotlib(tmp_path, monkeypatch):
    original = builtins.__import__

    def guarded(name, *args, **kwargs):
        assert not name.startswith("matplotlib.pyplot")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
    plots.losses(tmp_path / "curves.png", [{"step": 1, "loss": 1.0}], "run", "EMA 0.9")
    pictures.scatter(np.zeros((3, 2)))


@pytest.mark.parametrize("name, start", [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_figures_in_other_formats(name, start, tmp_path):
    images = np.zeros((2, 3, 8, 8, 1), np.uint8)
    with pictures.written_as(name):
        path = pictures.table(tmp_path / "table.png", images, 17, ["a", "b"], "t")
        plots.losses(tmp_path / "curves.png", [{"step": 1, "loss": 1.0}], "run", "EMA 0.9")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"curves.{name}", f"table.{name}"]
    assert path == tmp_path / f"table.{name}" and path.read_bytes().startswith(start)
    pictures.table(tmp_path / "after.png", images, 17, ["a", "b"], "t")
    assert (tmp_path / "after.png").exists()


@pytest.mark.parametrize("name", ["png", "pdf", "svg"])
def test_names_may_hold_any_character(name, tmp_path):
    images = np.zeros((4, 2, 8, 8, 1), np.uint8)
    rows = ["a$b_{c$", "x" * 60, "日本 \N{PILE OF POO}", "$\\frac$"]
    with pictures.written_as(name):
        assert pictures.table(tmp_path / "a.png", images, 17, rows, "run_$HOME$").stat().length > 1000
        plots.losses(tmp_path / "b.png", [{"step": 1, "loss": 1.0, "learning_rate": 0.0}], "$\\x$ %s {0}", "EMA")
