import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.data.scaling import from_model, to_model, to_rgb


@pytest.mark.parametrize("levels", [2, 3, 17, 255, 256])
def test_every_level_survives_the_round_trip(levels):
    x = np.arange(levels, dtype=np.uint8)
    inside = to_model(x, levels)
    assert inside.dtype == jnp.float32
    np.testing.assert_allclose(inside, 2 * np.arange(levels) / (levels - 1) - 1, atol=1e-6)  # rounding of 1 is 1e-7
    assert inside[0] == -1 and inside[-1] == 1
    back = from_model(inside, levels)
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(back, x)


def test_rounding_to_the_nearest_level():
    x = np.array([-7.0, -1.0, -0.51, -0.49, 0.49, 0.51, 1.0, 7.0])
    np.testing.assert_array_equal(from_model(x, 3), [0, 0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(from_model(jnp.asarray(x, jnp.bfloat16), 3), [0, 0, 0, 1, 1, 2, 2, 2])


def test_floats_are_unchanged():
    x = np.array([[-3.5, 1e6]], np.float32)
    for there in (to_model, from_model):
        out = there(x, 0)
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("levels", [-1, 1, 257])
def test_invalid_levels_raise(levels):
    with pytest.raises(ValueError, match="levels"):
        to_model(np.zeros(1), levels)


def test_to_rgb():
    grey = np.array([0, 8, 16], np.uint8).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(to_rgb(grey, 17)[0, :, 0], [[0] * 3, [128] * 3, [255] * 3])
    colour = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(to_rgb(colour, 256), colour)
    for x, levels in ((grey[0], 17), (grey, 0), (grey.repeat(2, -1), 17)):
        with pytest.raises(ValueError):
            to_rgb(x, levels)
