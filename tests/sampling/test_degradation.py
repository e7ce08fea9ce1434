"""Known coordinates of a degraded image: they are orthonormal, and masks select the named pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import level
from diffusion_jax.sampling import degradation

X = np.random.default_rng(0).normal(size=(3, 4, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("degraded", [degradation.colour(X.shape[1:]), degradation.detail(X.shape[1:], 2)])
def test_coordinates_are_orthonormal(degraded):
    turned = degraded.rotate(X)
    assert turned.shape == X.shape
    np.testing.assert_allclose((turned**2).sum((1, 2, 3)), (X**2).sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(degraded.back(turned), X, atol=1e-5)


def test_known_coordinates_are_the_grey_of_a_pixel_or_the_mean_of_a_block():
    grey = degradation.colour(X.shape[1:])
    wanted = np.broadcast_to(X.mean(-1, keepdims=True), X.shape)
    np.testing.assert_allclose(grey.show(grey.rotate(X)), wanted, atol=1e-5)
    assert grey.mask.sum() == 4 * 6
    coarse = degradation.detail(X.shape[1:], 2)
    blocks = X.reshape(3, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(coarse.show(coarse.rotate(X)), blocks.repeat(2, axis=1).repeat(2, axis=2), atol=1e-5)
    assert coarse.mask.sum() == 2 * 3 * 3


def test_a_model_in_coordinates_makes_the_same_prediction():
    degraded = degradation.detail(X.shape[1:], 2)
    at = level(schedules.vp(), jnp.full(3, 0.5))
    seen = []

    def predict(params, x_t, at, label, keys):
        seen.append(x_t)
        return Prediction(jnp.tanh(x_t), x_t**2, None)

    found = degradation.rotated(predict, degraded)(None, degraded.rotate(X), at)
    np.testing.assert_allclose(seen[0], X, atol=1e-5)
    np.testing.assert_allclose(degraded.back(found.x0), np.tanh(X), atol=1e-5)
    np.testing.assert_allclose(degraded.back(found.eps), X**2, atol=1e-4)


def test_masks_by_name():
    shape = (4, 6, 3)
    right, left = (degradation.missing(shape, name).mask for name in ("right", "left"))
    assert right[:, :3].all() and not right[:, 3:].any()
    np.testing.assert_array_equal(left, ~right)
    box = degradation.missing(shape, "box", share=0.25).mask
    assert not box[1:3, 1:4].any() and box.sum() == 3 * (4 * 6 - 6)
    random = degradation.missing(shape, "random", share=0.25, seed=1).mask
    assert (~random).sum() == 6 * 3 and np.all(random.all(-1) == random.any(-1))
    assert (random != degradation.missing(shape, "random", share=0.25, seed=2).mask).any()
    np.testing.assert_array_equal(degradation.missing((2,)).mask, [True, False])


def test_masks_may_be_arrays():
    known = np.arange(24).reshape(4, 6) % 3 > 0
    for mask in (known, known.astype(np.uint8), np.broadcast_to(known[..., None], (4, 6, 3))):
        found = degradation.missing((4, 6, 3), mask).mask
        np.testing.assert_array_equal(found, np.broadcast_to(known[..., None], (4, 6, 3)))


@pytest.mark.parametrize(
    "mask",
    [np.ones((6, 4), bool), np.full((4, 6), 0.5), np.ones((4, 6), bool), np.zeros((4, 6), bool)],
    ids=["shape", "dtype", "everything known", "nothing known"],
)
def test_masks_that_do_not_fit_are_refused_in_one_line(mask):
    with pytest.raises(ValueError, match="mask: ") as caught:
        degradation.missing((4, 6, 3), mask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: degradation.missing((4, 6, 3), "rigth"), "mask"),
        (lambda: degradation.missing((4, 6, 3), "box", share=1.0), "share"),
        (lambda: degradation.colour((4, 6, 1)), r"\(4, 6, 1\)"),
        (lambda: degradation.detail((4, 6, 1), 4), "factor"),
        (lambda: degradation.detail((2,), 2), "factor"),
    ],
)
def test_unsuitable_shapes_are_refused(make, option):
    with pytest.raises(ValueError, match=option):
        make()
