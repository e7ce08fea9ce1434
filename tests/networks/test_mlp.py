import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.mlp import MLP

NET = MLP(2, width=16, depth=2, dropout=0.3, num_classes=3)
X = np.random.RandomState(1).normal(size=(4, 2)).astype(np.float32)
TIME = np.array([0.0, 0.5, 17.0, 999.0], np.float32)


def drawn(net):
    random = np.random.RandomState(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, TIME, None, None)["params"]
    return jax.tree.map(lambda a: (random.normal(size=a.shape) / np.sqrt(a.shape[0])).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(net, params, x, time, label=None, keys=None):
    return net.apply({"params": params}, x, time, label, keys)


def test_output_follows_time_and_label():
    params = drawn(NET)
    x, time = X[[0, 0, 0, 0]], TIME[[2, 2, 2, 3]]
    y = run(NET, params, x, time, np.array([0, 1, -1, -1]))
    assert y.shape == (4, 2)
    assert y.dtype == np.float32
    assert min(np.max(np.abs(y[i] - y[j])) for i in range(4) for j in range(i)) > 0.01
    np.testing.assert_allclose(y[2:], run(NET, params, x, time)[2:], atol=1e-5)


def test_output_starts_near_zero():
    params = jax.jit(NET.init)(jax.random.key(0), X, TIME, None, None)["params"]
    assert 0 < np.max(np.abs(run(NET, params, X, TIME))) < 1e-3


def test_dropout_does_not_depend_on_the_layout_of_the_batch():
    params = drawn(NET)
    keys = jax.random.split(jax.random.key(3), 4)
    together = run(NET, params, X, TIME, None, keys)
    halves = [run(NET, params, X[i : i + 2], TIME[i : i + 2], None, keys[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(together, np.concatenate(halves), atol=1e-5)
    devices = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("data"))
    spread = run(NET, params, *jax.device_put((X, TIME), split), None, jax.device_put(keys, split))
    np.testing.assert_allclose(together, spread, atol=1e-5)
    assert np.max(np.abs(together - run(NET, params, X, TIME))) > 0.1


def test_bfloat16_is_close_and_float64_is_exact():
    params = drawn(NET)
    single = run(NET, params, X, TIME)
    half = run(NET.clone(dtype="bfloat16"), params, X, TIME)
    with jax.enable_x64(True):
        double = np.asarray(run(NET.clone(dtype="float64"), *jax.tree.map(np.float64, (params, X, TIME))))
    assert (half.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, double, atol=1e-4)
    np.testing.assert_allclose(half, double, atol=0.05 * np.max(np.abs(double)))


@pytest.mark.parametrize(
    ("options", "shape", "named"),
    [
        ({"width": 7}, (4, 2), "width"),
        ({"depth": 0}, (4, 2), "depth"),
        ({"dropout": -0.1}, (4, 2), "dropout"),
        ({"dtype": "half"}, (4, 2), "dtype"),
        ({}, (4, 2, 2), "x"),
    ],
)
def test_bad_options_and_shapes_are_errors(options, shape, named):
    with pytest.raises(ValueError, match=rf"mlp.*\b{named}\b"):
        jax.eval_shape(MLP(2, **options).init, jax.random.key(0), jnp.zeros(shape), TIME, None, None)
