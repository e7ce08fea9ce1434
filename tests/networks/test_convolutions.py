import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from diffusion_jax import devices
from diffusion_jax.networks import convolutions, layers, ncsn
from diffusion_jax.networks.unet import UNet

CHANNELS = convolutions.MIN_CHANNELS


def truth(x, kernel):
    """The sum over windows, in float64."""
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    windows = [(i, j) for i in range(3) for j in range(3)]
    return sum(padded[:, i : i + height, j : j + width] @ np.asarray(kernel, np.float64)[i, j] for i, j in windows)


def true_repeated(x, kernel):
    return truth(np.repeat(np.repeat(x, 2, axis=1), 2, axis=2), kernel)


def drawn(*shapes, dtype=np.float64):
    random = np.random.RandomState(0)
    return [random.normal(size=shape).astype(dtype) for shape in shapes]


def plainly(convolve):
    """As flax asks for a plain convolution."""
    return lambda x, kernel: convolve(x, kernel, (1, 1), "SAME", **convolutions.PLAIN)


def close(got, expected, atol):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=atol), got, expected)


SHAPES = [(2, 6, 4), (1, 2, 5), (3, 8, 1), (0, 2, 2)]
WAYS = [(way, truth, shape) for way in (convolutions.direct, convolutions.winograd) for shape in SHAPES] + [
    (way, true_repeated, shape)
    for way in (convolutions.repeated, convolutions.repeated_in_quarters)
    for shape in [*SHAPES, (2, 1, 1), (2, 3, 4)]
]
CHOICES = [
    (plainly(convolutions.convolve), convolutions.direct, 6 / 9),
    (plainly(convolutions.convolve_repeated), convolutions.repeated, 4 / 9),
]
chosen = pytest.mark.parametrize("choice, plain, share", CHOICES, ids=["convolve", "convolve_repeated"])


@pytest.mark.parametrize("way, true, shape", WAYS)
def test_each_way_is_the_sum_over_windows(way, true, shape):
    x, kernel = drawn((*shape, 5), (3, 3, 5, 7))
    with jax.enable_x64(True):
        close(jax.jit(way)(x, kernel), true(x, kernel), 1e-13)


@pytest.mark.parametrize("way, true, _", [WAYS[len(SHAPES)], WAYS[-1]])
def test_float32_loses_nothing_to_the_sums(way, true, _):
    x, kernel = drawn((2, 8, 8, 128), (3, 3, 128, 128), dtype=np.float32)
    plain = convolutions.direct if true is truth else convolutions.repeated
    error, usual = (np.std(jax.jit(f)(x, kernel) - true(x, kernel)) for f in (way, plain))
    assert usual < 1e-4 and error < 4 * usual  # 1e-5 of values of 34, and another order of sums may halve it


@chosen
def test_derivatives_are_those_of_the_plain_convolution(choice, plain, share):
    shapes = (2, 4, 2, CHANNELS), (3, 3, CHANNELS, CHANNELS)
    inputs = drawn(*shapes, *shapes)

    def derivatives(convolve, x, kernel, dx, dkernel):
        def energy(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel) / CHANNELS))

        forward = jax.jvp(convolve, (x, kernel), (dx, dkernel))
        curvature = jax.jvp(jax.grad(energy), (x, kernel), (dx, dkernel))[1]
        return forward, jax.grad(energy, (0, 1))(x, kernel), curvature

    with jax.enable_x64(True):
        got, expected = (jax.jit(partial(derivatives, convolve))(*inputs) for convolve in (choice, plain))
    close(got, expected, 1e-11)


def products(function, *inputs, platform):
    lowered = jax.jit(function).trace(*inputs).lower(lowering_platforms=(platform,))
    return lowered.cost_analysis()["flops"]


def squared(convolve):
    """The gradients of its squares."""
    return jax.grad(lambda x, kernel: jnp.sum(jnp.square(convolve(x, kernel))), (0, 1))


@chosen
def test_a_cpu_multiplies_less_and_other_devices_do_as_they_did(choice, plain, share):
    shapes = (2, 16, 16, CHANNELS), (3, 3, CHANNELS, CHANNELS)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    for of in (lambda convolve: convolve, squared):
        whole = products(of(plain), *inputs, platform="cpu")
        for platform in ("tpu", "cuda"):
            assert products(of(choice), *inputs, platform=platform) == whole
        assert products(of(choice), *inputs, platform="cpu") / whole == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize(
    "layer, share",
    [(layers.conv(CHANNELS, jnp.float32, None), 6 / 9), (layers.Upsample(jnp.float32), 4 / 9)],
    ids=["conv", "Upsample"],
)
def test_the_layers_are_convolved_so(layer, share):
    x = jax.ShapeDtypeStruct((2, 16, 16, CHANNELS), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    whole = products(layer.apply, params, x, platform="cpu")
    few, others = (products(convolutions.fast(layer.apply), params, x, platform=name) for name in ("cpu", "tpu"))
    assert others == whole and few / whole == pytest.approx(share, rel=0.1)


def test_a_network_is_the_same_but_for_rounding(x64):
    """Its parameters, and with them its value and gradient."""
    net = UNet(2, channels=CHANNELS, multipliers=(1, 1), blocks=1, attention=(), dtype="float64", remat=True)
    x, time = jnp.asarray(drawn((1, 4, 4, 2))[0]), jnp.zeros(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, time)
    assert jax.eval_shape(convolutions.fast(net.init), jax.random.key(0), x, time) == shapes
    random = np.random.RandomState(1)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5, shapes)

    def value_and_gradient(apply):
        return jax.jit(jax.value_and_grad(lambda params: jnp.sum(jnp.sin(apply(params, x, time)))))(params)

    got, expected = value_and_gradient(convolutions.fast(net.apply)), value_and_gradient(net.apply)
    close(got, expected, 1e-10)
    assert got[0] != expected[0]


def test_subclasses_of_the_convolution_stay_as_they_are():
    layer, x = ncsn.conv(CHANNELS, jnp.float32, None), jax.ShapeDtypeStruct((2, 16, 16, CHANNELS), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert products(convolutions.fast(layer.apply), params, x, platform="cpu") == products(
        layer.apply, params, x, platform="cpu"
    )


@chosen
def test_bfloat16_is_not_rounded_twice(choice, plain, share):
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in drawn((1, 4, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS)))
    np.testing.assert_array_equal(jax.jit(choice)(x, kernel), jax.jit(plain)(x, kernel))


@pytest.mark.parametrize(
    "shape, kernel, options",
    [
        ((2, 3, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS), {}),
        ((2, 4, 4, 3), (3, 3, 3, CHANNELS), {}),
        ((2, 4, 4, CHANNELS), (3, 3, CHANNELS, 3), {}),
        ((2, 4, 4, CHANNELS), (1, 1, CHANNELS, CHANNELS), {}),
        ((2, 4, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS), {"window_strides": (2, 2)}),
        ((2, 4, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS), {"padding": ((1, 0), (0, 1))}),
        ((2, 4, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS), {"rhs_dilation": (2, 2)}),
    ],
)
def test_all_else_is_convolved_as_it_is(shape, kernel, options):
    inputs = drawn(shape, kernel, dtype=np.float32)
    asked = {"window_strides": (1, 1), "padding": "SAME"} | convolutions.PLAIN | options
    strides, padding = asked.pop("window_strides"), asked.pop("padding")
    expected = jax.lax.conv_general_dilated(*inputs, strides, padding, **asked)
    got = jax.jit(lambda x, kernel: convolutions.convolve(x, kernel, strides, padding, **asked))(*inputs)
    np.testing.assert_array_equal(got, expected)


@chosen
def test_no_more_is_stored_for_the_gradient_than_x_and_the_kernel(choice, plain, share):
    shapes = (2, 4, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    stored = jax.eval_shape(lambda x, kernel: jax.vjp(choice, x, kernel)[1], *inputs)
    assert {a.shape for a in jax.tree.leaves(stored)} == set(shapes)


@chosen
def test_gradients_by_example_recomputed_and_spread_over_devices(choice, plain, share):
    x, kernel = drawn((4, 4, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS))

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return choice(x, self.param("kernel", lambda key: jnp.asarray(kernel)))

    def gradient(params, x):  # of one example
        return jax.grad(lambda params: jnp.mean(jnp.sin(nn.remat(Layer)().apply(params, x[None]))))(params)

    with jax.enable_x64(True):
        params = {"params": {"kernel": jnp.asarray(kernel)}}
        each = jax.vmap(gradient, (None, 0))
        specs = {"in_specs": (P(), P(devices.AXIS)), "out_specs": P(devices.AXIS)}
        spread = jax.shard_map(each, mesh=devices.mesh(), check_vma=False, **specs)
        got = jax.jit(spread)(params, x)["params"]["kernel"]
        expected = [jax.grad(lambda k, one: jnp.mean(jnp.sin(plain(one[None], k))))(kernel, one) for one in x]
    close(got, np.stack(expected), 1e-13)


@chosen
def test_every_method_uses_the_requested_precision(choice, plain, share):
    shapes = (2, 4, 4, CHANNELS), (3, 3, CHANNELS, CHANNELS)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def told():
        return set(re.findall(r"precision=(\S+)", str(jax.make_jaxpr(choice)(*inputs))))

    usual = told()
    with jax.default_matmul_precision("highest"):
        asked = told()
    assert usual == told() == {"None"} and asked and all("HIGHEST" in precision for precision in asked)
