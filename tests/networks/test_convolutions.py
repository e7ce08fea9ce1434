from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import convolutions


def truth(x, kernel):
    """The sum over windows, in float64."""
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ np.asarray(kernel, np.float64)[i, j]
        for i in range(3)
        for j in range(3)
    )


def true_repeated(x, kernel):
    return truth(np.repeat(np.repeat(x, 2, axis=1), 2, axis=2), kernel)


def drawn(*shapes, dtype=np.float64):
    random = np.random.RandomState(0)
    return [random.normal(size=shape).astype(dtype) for shape in shapes]


WAYS = [
    (convolutions.direct, truth),
    (convolutions.minimal, truth),
    (convolutions.repeated, true_repeated),
    (convolutions.repeated_in_quarters, true_repeated),
]
CHOICES = [
    (convolutions.convolve, convolutions.direct, 6 / 9),
    (convolutions.convolve_repeated, convolutions.repeated, 4 / 9),
]
named = partial(pytest.mark.parametrize, ids=lambda value: getattr(value, "__name__", ""))


@named("way, true", WAYS)
@pytest.mark.parametrize("shape", [(2, 6, 4), (1, 2, 5), (3, 8, 1)])
def test_each_way_is_the_sum_over_windows(way, true, shape):
    x, kernel = drawn((*shape, 5), (3, 3, 5, 7))
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(way)(x, kernel), true(x, kernel), atol=1e-13)
    x, kernel = drawn((*shape, 64), (3, 3, 64, 7), dtype=np.float32)
    np.testing.assert_allclose(jax.jit(way)(x, kernel), true(x, kernel), atol=1e-4)  # of values of 24


@named("choice, plain, _", CHOICES)
def test_derivatives_are_those_of_the_plain_convolution(choice, plain, _):
    n = convolutions.FEWEST_CHANNELS
    x, kernel, dx, dkernel = drawn((2, 4, 2, n), (3, 3, n, n), (2, 4, 2, n), (3, 3, n, n))

    def derivatives(convolve):
        def energy(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel) / n))

        forward = jax.jvp(convolve, (x, kernel), (dx, dkernel))
        curvature = jax.jvp(jax.grad(energy), (x, kernel), (dx, dkernel))[1]
        return forward, jax.grad(energy, (0, 1))(x, kernel), curvature

    with jax.enable_x64(True):
        got, expected = (jax.jit(partial(derivatives, convolve))() for convolve in (choice, plain))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-11), got, expected)


def products(convolve, x, kernel, platform):
    lowered = jax.jit(convolve).trace(x, kernel).lower(lowering_platforms=(platform,))
    return lowered.cost_analysis()["flops"]


@named("choice, plain, share", CHOICES)
def test_a_cpu_multiplies_less_and_other_devices_do_as_they_did(choice, plain, share):
    n = convolutions.FEWEST_CHANNELS
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 16, 16, n), (3, 3, n, n)))
    whole = products(plain, x, kernel, "tpu")
    assert products(choice, x, kernel, "tpu") == whole == products(plain, x, kernel, "cpu")
    assert products(choice, x, kernel, "cpu") / whole == pytest.approx(share, rel=0.1)


@named("choice, plain, _", CHOICES)
def test_bfloat16_is_not_rounded_twice(choice, plain, _):
    n = convolutions.FEWEST_CHANNELS
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in drawn((1, 4, 4, n), (3, 3, n, n)))
    np.testing.assert_array_equal(jax.jit(choice)(x, kernel), jax.jit(plain)(x, kernel))


def test_odd_heights_and_few_channels_are_convolved_as_they_are():
    n = convolutions.FEWEST_CHANNELS
    for shape, kernel in (((2, 3, 4, n), (3, 3, n, n)), ((2, 4, 4, 3), (3, 3, 3, n)), ((2, 4, 4, n), (3, 3, n, 3))):
        inputs = drawn(shape, kernel, dtype=np.float32)
        np.testing.assert_array_equal(jax.jit(convolutions.convolve)(*inputs), jax.jit(convolutions.direct)(*inputs))


@named("choice, plain, _", CHOICES)
def test_no_more_is_stored_for_the_gradient_than_x_and_the_kernel(choice, plain, _):
    n = convolutions.FEWEST_CHANNELS
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 4, 4, n), (3, 3, n, n)))
    stored = jax.eval_shape(lambda x, kernel: jax.vjp(choice, x, kernel)[1], x, kernel)
    small = 12  # constants
    assert {a.shape for a in jax.tree.leaves(stored) if a.size > small} == {x.shape, kernel.shape}
