"""VDM's network: as many parameters as published, all of them at work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.vdm import VDMUNet

SMALL = VDMUNet(2, channels=8, blocks=1, fourier=(1,), dropout=0.0, num_classes=2)
QUICK = {"xla_backend_optimization_level": 0}


def shapes_of(net, shape):
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x, time, None, None)["params"]


def test_parameters_are_as_many_as_published():
    """Less the two of its schedule. A bit beside the time, its Fourier features and 65 blocks are what makes them."""
    leaves = jax.tree.leaves(shapes_of(VDMUNet(3), (32, 32, 3)))
    assert sum(leaf.size for leaf in leaves) == 30_578_181 - 2


def test_output_is_x_at_the_start_and_follows_time_and_label():
    shape = (4, 6, 2)
    random = np.random.RandomState(0)
    x = random.normal(size=(1, *shape)).astype(np.float32)[[0, 0, 0, 0]]
    time, label = jnp.array([0.0, 500, 500, 500]), jnp.array([-1, -1, 0, 1])
    run = jax.jit(SMALL.apply, compiler_options=QUICK)
    start = jax.jit(SMALL.init, compiler_options=QUICK)(jax.random.key(0), x, time, label, None)
    np.testing.assert_allclose(run(start, x, time, label, None), x, atol=1e-3)
    drawn = jax.tree.map(lambda a: (random.normal(size=a.shape) / np.sqrt(np.prod(a.shape[:-1]))).astype("f4"), start)
    y = np.asarray(run(drawn, x, time, label, None))
    assert y.shape == x.shape and np.all(np.isfinite(y))
    pairs = ((0, 1), (1, 2), (2, 3))  # no label differs from class 0
    assert min(np.abs(y[i] - y[j]).max() for i, j in pairs) > 1e-4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"out_channels": 6}, "prediction.variance"),
        ({"channels": 5}, "channels"),
        ({"blocks": 0}, "blocks"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_options_and_shapes_are_errors_before_compilation(options, named):
    with pytest.raises(ValueError, match=rf"vdm.*\b{named}\b"):
        shapes_of(VDMUNet(**{"out_channels": 3} | options), (32, 32, 3))
