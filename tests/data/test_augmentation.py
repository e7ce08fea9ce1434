"""Geometric augmentation: against a double in NumPy and SciPy, against EDM's public code, and its distribution."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from diffusion_jax.data import augmentation

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_edm_augmentation  # noqa: E402

IDENTITY = {"mirror": (0, 0), "scale": 0, "angle": 0, "stretch": 0, "axis": 0, "shift": (0, 0)}

TRANSFORM = jax.jit(augmentation.transform, compiler_options={"xla_backend_optimization_level": 0})


def one(**fields):
    """A transform of one image, in float64."""
    return augmentation.Transform(**{name: jnp.array([value], float) for name, value in (IDENTITY | fields).items()})


def double(x, mirror, scale, angle, stretch, axis, shift):
    """The transform of one image [H,W,C], by homogeneous matrices, `upfirdn` and `map_coordinates`."""
    height, width, channels = x.shape
    x = x[:: -1 if mirror[1] else 1, :: -1 if mirror[0] else 1]

    def turn(a):
        return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])

    s, r = 2 ** (0.2 * scale), 2 ** (0.2 * stretch)
    moved = np.array([[1, 0, shift[0] * width / 8], [0, 1, shift[1] * height / 8], [0, 0, 1]])
    forward = moved @ turn(-axis) @ np.diag([r, 1 / r, 1]) @ turn(axis) @ turn(-angle) @ np.diag([s, s, 1])
    rows, columns = np.mgrid[-3 : height + 3 : 0.5, -3 : width + 3 : 0.5]
    middle = np.array([(width - 1) / 2, (height - 1) / 2, 0])[:, None]
    found = np.linalg.solve(forward, np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)]) - middle) + middle
    result = np.empty_like(x)
    for c in range(channels):
        image = np.pad(x[..., c], ((height - 1,) * 2, (width - 1,) * 2), mode="reflect")
        for i in (0, 1):
            image = scipy.signal.upfirdn(augmentation.SYM6, image, up=2, axis=i)
            image = np.take(image, np.arange(5, image.shape[i] - 5), axis=i)
            image = np.concatenate([image, np.zeros_like(np.take(image, [0], axis=i))], axis=i)
        at = 2 * (found[1] + height - 1), 2 * (found[0] + width - 1)
        image = scipy.ndimage.map_coordinates(image, at, order=1, mode="grid-constant").reshape(rows.shape)
        for i in (0, 1):
            padded = np.pad(image, [(0, 0)] * i + [(5, 5)] + [(0, 0)] * (1 - i))
            image = scipy.signal.upfirdn(augmentation.SYM6[::-1], padded, down=1, axis=i)
            size = (height, width)[i]
            image = np.take(image, 11 + 2 * np.arange(3, size + 3), axis=i)
        result[..., c] = image
    return result


@pytest.mark.parametrize(
    "fields",
    [
        {"mirror": (1, 0)},
        {"mirror": (0, 1)},
        {"scale": -1.5},
        {"scale": 2.0},
        {"angle": np.pi / 2},
        {"angle": -0.7},
        {"stretch": 1.2},
        {"stretch": -0.8, "axis": 2.5},
        {"shift": (0.7, -1.1)},
        {"mirror": (1, 1), "scale": 0.6, "angle": 3.0, "stretch": 1.4, "axis": -1.2, "shift": (-0.5, 0.3)},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_transform_is_that_of_its_double(fields, x64):
    x = np.random.default_rng(0).uniform(-1, 1, (9, 14, 2))
    found = TRANSFORM(jnp.array(x)[None], one(**fields))[0]
    np.testing.assert_allclose(found, double(x, **(IDENTITY | fields)), atol=1e-12)


def test_identity_and_shifts_by_whole_pixels_are_exact(x64):
    """Away from the edge that comes in; the unit of a shift is an eighth of the image."""
    x = np.random.default_rng(1).normal(size=(8, 8, 1))
    same, shifted = (TRANSFORM(jnp.array(x)[None], one(**fields))[0] for fields in ({}, {"shift": (2, -1)}))
    np.testing.assert_allclose(same, x, atol=1e-12)
    np.testing.assert_allclose(shifted[:7, 2:], x[1:, :6], atol=1e-12)


def test_filter_is_orthogonal_with_six_vanishing_moments():
    taps, n = np.array(augmentation.SYM6), np.arange(12)
    for shift in range(6):
        assert taps[2 * shift :] @ taps[: 12 - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-11)
    for moment in range(6):
        assert np.sum((-1.0) ** n * n**moment * taps) == pytest.approx(0, abs=1e-9 * 11.0**moment)


def test_transform_and_label_are_those_of_the_public_code(x64):
    """Relative to 1, the size of pixels and labels; both sides are in float64."""
    x, fields = make_edm_augmentation.inputs()
    done = augmentation.Transform(**{name: jnp.array(value) for name, value in fields.items()})
    with np.load(GOLDEN / "edm_augmentation.npz") as golden:
        np.testing.assert_allclose(augmentation.transform(jnp.array(x), done), golden["output"], atol=1e-12)
        np.testing.assert_allclose(augmentation.label(done), golden["label"], atol=1e-14)


def test_transforms_have_the_given_probability():
    """Frequencies of 20,000 draws, within five standard deviations; the others are 0, and so is their label."""
    n, p = 20_000, 0.12
    keys = jax.random.split(jax.random.key(0), n)
    done = jax.vmap(lambda key: augmentation.draw(key, p))(keys)
    shares = {"scale": p, "angle": p, "stretch": p, "axis": 0.5}
    happened = {name: np.asarray(getattr(done, name) != 0) for name in shares}
    happened |= {"shift": np.asarray((done.shift != 0).all(1)), "left": done.mirror[:, 0] > 0}
    happened["upside_down"] = done.mirror[:, 1] > 0
    shares |= {"shift": p, "left": 0.5, "upside_down": p / 2}
    for name, share in shares.items():
        assert abs(np.mean(happened[name]) - share) < 5 * (share * (1 - share) / n) ** 0.5, name
    for name in ("scale", "stretch", "shift"):
        values = np.asarray(getattr(done, name))
        values = values[values != 0]
        assert np.var(values) == pytest.approx(1, abs=5 * (2 / len(values)) ** 0.5)
    turned = np.asarray(done.angle)[happened["angle"]]
    assert np.abs(turned).max() <= np.pi and np.var(turned) == pytest.approx(np.pi**2 / 3, rel=0.1)
    idle = ~np.any(list(happened.values()), 0) | (
        ~happened["left"] & (np.asarray(augmentation.label(done)) == 0).all(1)
    )
    assert np.mean(idle) == pytest.approx((1 - p) ** 4 * (1 - p / 2) / 2, abs=5 * 0.5 / n**0.5)


def test_an_example_is_transformed_by_its_own_key_alone():
    x = jax.random.normal(jax.random.key(1), (4, 4, 4, 1))
    keys = jax.random.split(jax.random.key(2), 4)
    augment = jax.jit(augmentation.augment, static_argnums=2, compiler_options={"xla_backend_optimization_level": 0})
    images, labels = augment(x, keys, 0.5)
    reversed_images, reversed_labels = augment(x[::-1], keys[::-1], 0.5)
    assert labels.shape == (4, augmentation.LABEL_DIMS) and np.ptp(np.asarray(labels), 0).max() > 0
    np.testing.assert_array_equal(reversed_labels[::-1], labels)
    np.testing.assert_array_equal(reversed_images[::-1], images)
