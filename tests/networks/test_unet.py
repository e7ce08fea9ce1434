import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.unet import UNet

SMALL = UNet(3, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.3)
LEAST = UNet(1, channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.3)
QUICK = {"xla_backend_optimization_level": 0}  # halves the compilation, which is nearly all the time these tests take


def keys_of(*examples):
    return jnp.stack([jax.random.key(i) for i in examples])


def shapes_of(net, shape):
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x, time, None, None)["params"]


def drawn(net, shape):
    """Parameters of the net with no value near zero, as the output would be at the start."""
    random = np.random.RandomState(0)

    def draw(a):
        return (random.normal(size=a.shape) / np.sqrt(np.prod(a.shape[:-1]))).astype(np.float32)

    return jax.tree.map(draw, shapes_of(net, shape))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def run(net, params, x, time, label=None, keys=None):
    return net.apply({"params": params}, x, time, label, keys)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def value_and_gradient(net, params, x, time, keys):
    def loss(params):
        y = net.apply({"params": params}, x, time, None, keys)
        return jnp.mean(y**2), y

    (_, y), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return y, gradient


def inputs(batch, shape):
    random = np.random.RandomState(1)
    return random.normal(size=(batch, *shape)).astype(np.float32), np.linspace(0, 999, batch, dtype=np.float32)


@pytest.mark.parametrize(
    ("net", "shape", "tensors", "count"),
    [
        (UNet(3), (32, 32, 3), 328, 35_746_307),
        (UNet(6), (32, 32, 3), 328, 35_746_307 + 3_459),
        (UNet(3, multipliers=(1, 1, 2, 2, 4, 4)), (256, 256, 3), 450, 113_673_219),
        (UNet(3, channels=192, multipliers=(1, 1, 2, 2, 4, 4), remat=True), (256, 256, 3), 450, 255_677_955),
        (UNet(3, num_classes=10), (32, 32, 3), 329, 35_746_307 + 11 * 512),
    ],
)
def test_parameters_are_as_many_as_published(net, shape, tensors, count):
    leaves = jax.tree.leaves(shapes_of(net, shape))
    assert len(leaves) == tensors
    assert sum(leaf.size for leaf in leaves) == count
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_parameter_names():
    params = shapes_of(SMALL, (8, 8, 3))
    assert set(params) == {"temb", "conv_in", "down_0", "down_1", "mid", "up_1", "up_0", "norm_out", "conv_out"}
    assert set(params["down_0"]) == {"block_0", "downsample"}
    assert set(params["down_1"]) == {"block_0", "attn_0"}
    assert set(params["up_1"]) == {"block_0", "attn_0", "block_1", "attn_1", "upsample"}
    assert set(params["mid"]) == {"block_1", "attn_1", "block_2"}
    assert set(params["up_0"]["block_0"]) == {"norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut"}


def test_output_starts_near_zero():
    x, time = inputs(2, (4, 6, 1))
    params = jax.jit(LEAST.init, compiler_options=QUICK)(jax.random.key(0), x, time, None, None)["params"]
    y = run(LEAST, params, x, time)
    assert y.shape == x.shape
    assert 0 < np.max(np.abs(y)) < 1e-3


def test_dropout_does_not_depend_on_the_layout_of_the_batch():
    x, time = inputs(4, (4, 6, 1))
    params = drawn(LEAST, (4, 6, 1))
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(7)))(jnp.arange(4))
    together = run(LEAST, params, x, time, None, keys)
    halves = [run(LEAST, params, x[i : i + 2], time[i : i + 2], None, keys[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(together, np.concatenate(halves), atol=1e-5)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(together[order], run(LEAST, params, x[order], time[order], None, keys[order]), atol=1e-5)
    assert np.max(np.abs(together - run(LEAST, params, x, time, None, keys[::-1]))) > 0.1


def test_remat_changes_neither_names_nor_results():
    assert jax.tree.structure(shapes_of(SMALL, (8, 8, 3))) == jax.tree.structure(
        shapes_of(SMALL.clone(remat=True), (8, 8, 3))
    )
    params = drawn(LEAST, (4, 6, 1))
    x, time = inputs(2, (4, 6, 1))
    y, gradient = value_and_gradient(LEAST, params, x, time, keys_of(0, 1))
    y_remat, gradient_remat = value_and_gradient(LEAST.clone(remat=True), params, x, time, keys_of(0, 1))
    np.testing.assert_allclose(y, y_remat, atol=1e-5)
    assert all(np.any(g) for g in jax.tree.leaves(gradient))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), gradient, gradient_remat)


def test_output_follows_time_and_label_with_few_channels():
    net = LEAST.clone(channels=4, num_classes=2)
    x, time = inputs(2, (4, 6, 1))
    x = x[[0, 0, 0, 0]]
    y = run(net, drawn(net, (4, 6, 1)), x, time[[0, 1, 1, 1]], np.array([-1, -1, 0, 1]))
    assert min(np.max(np.abs(y[i] - y[j])) for i in range(4) for j in range(i)) > 1e-4  # rounding is 1e-6


def test_bfloat16_is_close_and_float64_is_exact():
    x, time = inputs(2, (4, 6, 1))
    params = drawn(LEAST, (4, 6, 1))
    single = run(LEAST, params, x, time)
    half = run(LEAST.clone(dtype="bfloat16"), params, x, time)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x, time))
        double = np.asarray(run(LEAST.clone(dtype="float64"), *wide))
    assert (single.dtype, half.dtype, double.dtype) == (np.float32, np.float32, np.float64)
    np.testing.assert_allclose(single, double, atol=1e-4)
    error = np.sqrt(np.mean((half - double) ** 2) / np.mean(double**2))
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (UNet(1, channels=4, multipliers=(1, 1, 2), blocks=1, attention=(7,), num_classes=2), (28, 28, 1)),
        (UNet(5, channels=6, multipliers=(2, 1), blocks=1, attention=(), heads=3, num_classes=2), (16, 24, 3)),
        (UNet(2, channels=4, multipliers=(1,), blocks=1, attention=(5,), num_classes=2), (5, 7, 2)),
    ],
)
def test_any_height_width_and_number_of_channels_with_labels(net, shape):
    x, time = inputs(3, shape)
    y = run(net, drawn(net, shape), x, time, jnp.array([0, 1, -1]))
    assert y.shape == (3, *shape[:2], net.out_channels)
    assert np.all(np.isfinite(y))
    np.testing.assert_allclose(
        y[1:], run(net, drawn(net, shape), x[[1, 2, 0]], time[[1, 2, 0]], jnp.array([1, -1, 0]))[:2], atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "shape", "named"),
    [
        ({}, (30, 32, 3), "height"),
        ({}, (32, 20, 3), "width"),
        ({"attention": (14,)}, (32, 32, 3), "attention"),
        ({"multipliers": ()}, (32, 32, 3), "multipliers"),
        ({"multipliers": (1, 0)}, (32, 32, 3), "multipliers"),
        ({"channels": 33}, (32, 32, 3), "channels"),
        ({"heads": 3}, (32, 32, 3), "heads"),
        ({"heads": 0}, (32, 32, 3), "heads"),
        ({"groups": 12}, (32, 32, 3), "groups"),
        ({"groups": -1}, (32, 32, 3), "groups"),
        ({"blocks": 0}, (32, 32, 3), "blocks"),
        ({"dtype": "float16"}, (32, 32, 3), "dtype"),
        ({"dtype": "float64"}, (32, 32, 3), "dtype"),
        ({"dropout": 1.0}, (32, 32, 3), "dropout"),
        ({"num_classes": -1}, (32, 32, 3), "num_classes"),
        ({}, (32, 3), "x"),
    ],
)
def test_bad_options_and_shapes_are_errors_before_compilation(options, shape, named):
    with pytest.raises(ValueError, match=rf"unet.*\b{named}\b"):
        shapes_of(UNet(3, **options), shape)


@pytest.mark.parametrize("name", ["time", "label", "keys"])
def test_inputs_of_another_batch_are_an_error(name):
    arguments = {"time": jnp.zeros(2), "label": jnp.zeros(2, jnp.int32), "keys": keys_of(0, 1), name: jnp.zeros((1, 2))}
    with pytest.raises(ValueError, match=rf"unet.*\b{name}\b"):
        jax.eval_shape(functools.partial(SMALL.init, x=jnp.zeros((2, 8, 8, 3)), **arguments), jax.random.key(0))
