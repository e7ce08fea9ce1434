"""The networks of 2015: what changes with time, what does not, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.multiscale import MultiScale, MultiScaleConv
from diffusion_jax.networks.rbf import RBF
from diffusion_jax.networks.sequence_mlp import SequenceMLP
from diffusion_jax.networks.temporal import ReadOut, bump_weights
from diffusion_jax.process import learned

KEY = jax.random.key(0)


def shaken(params, scale=0.3):
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [x + np.float32(scale * rng.standard_normal(x.shape)) for x in leaves])


def test_bumps_are_those_of_the_learned_rates():
    k = np.arange(7)
    np.testing.assert_allclose(bump_weights(jnp.arange(7.0), 7, 3), learned.bump_weights(k, 7, 3), rtol=1e-5)


@pytest.mark.parametrize("bumps", [0, 3])
def test_read_out_is_a_dense_layer_of_its_step(bumps):
    steps, layer = 5, ReadOut(2, 5, bumps, jnp.float32)
    h, time = jax.random.normal(KEY, (4, 3, 6)), jnp.array([0.0, 1.0, 4.0, 1.0])
    params = shaken(jax.jit(layer.init)(KEY, h, time))
    found = layer.apply(params, h, time)
    p = params["params"]
    weights = np.asarray(bump_weights(time, steps, bumps)) if bumps else np.eye(steps)[time.astype(int)]
    for row in range(4):
        kernel, bias = (np.tensordot(weights[row], p[name], 1) for name in ("kernel", "bias"))
        np.testing.assert_allclose(found[row], np.asarray(h[row]) @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_rbf_is_a_normalised_sum_of_bumps_in_space():
    net = RBF(out_channels=3, num_steps=4, units=5)
    x, time = jax.random.normal(KEY, (6, 2)), jnp.arange(6.0) % 4
    params = shaken(jax.jit(net.init)(KEY, x, time))
    p = jax.tree.map(np.asarray, params["params"])
    distance = ((np.asarray(x)[:, None] - p["centres"]) ** 2).sum(-1)
    phi = np.exp(-distance / (2 * np.exp(2 * p["log_width"])))
    phi /= phi.sum(1, keepdims=True)
    k = np.arange(6) % 4
    expected = np.einsum("bi,bio->bo", phi, p["read_out"]["kernel"][k]) + p["read_out"]["bias"][k]
    np.testing.assert_allclose(net.apply(params, x, time), expected, rtol=1e-4, atol=1e-5)


def test_multi_scale_convolution_of_a_flat_image_is_the_sum_of_its_kernels():
    layer = MultiScaleConv(2, 3, jnp.float32)
    x = jnp.full((1, 16, 16, 1), 0.7)
    params = shaken(jax.jit(layer.init)(KEY, x))
    apply = jax.jit(layer.apply)
    found = apply(params, x)[0, 8, 8]  # away from the edges, where zeros are read
    p = params["params"]
    expected = sum(0.7 * p[f"scale_{s}"]["kernel"].sum((0, 1, 2)) + p[f"scale_{s}"]["bias"] for s in range(3)) / 3
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    coarse = jnp.zeros((1, 16, 16, 1)).at[0, :4, :4].set(1.0)  # seen from far away at the coarsest scale alone
    change = apply(params, coarse) - apply(params, jnp.zeros_like(coarse))
    assert np.abs(change[0, 4:8, 4:8]).min() > 0 and np.abs(change[0, 8:]).max() == 0


NETS = {
    "rbf": (RBF(2, 3), (2, 2)),
    "sequence_mlp": (SequenceMLP(5, 3, width=8), (2, 5)),
    "multiscale": (MultiScale(2, 3, 1, 4, 2, dense_width=4, upper_features=4, bumps=2), (2, 4, 4, 1)),
}


@pytest.mark.parametrize("name", NETS)
def test_networks_start_near_zero_and_depend_on_the_time(name):
    net, shape = NETS[name]
    x = jnp.broadcast_to(jax.random.normal(KEY, shape[1:]), shape)
    params, apply = jax.jit(net.init)(KEY, x, jnp.zeros(2)), jax.jit(net.apply)
    out = apply(params, x, jnp.array([0.0, 2.0]))
    assert out.shape == (*shape[:-1], net.out_channels) and np.abs(out).max() < 1e-3
    out = apply(shaken(params), x, jnp.array([0.0, 2.0]))
    assert np.abs(out[0] - out[1]).max() > 1e-3


@pytest.mark.parametrize("name", NETS)
def test_networks_refuse_bad_shapes_and_numbers_of_steps(name):
    net, shape = NETS[name]
    with pytest.raises(ValueError, match=rf"{name}.*\bx\b"):
        net.init(KEY, jnp.zeros((2, 3, 3)), jnp.zeros(2))
    with pytest.raises(ValueError, match=rf"{name}.*process\.num_steps"):
        net.clone(num_steps=0).init(KEY, jnp.zeros(shape), jnp.zeros(2))


def test_multiscale_needs_sizes_that_can_be_halved():
    with pytest.raises(ValueError, match=r"multiscale.*scales"):
        MultiScale(2, 3, scales=3).init(KEY, jnp.zeros((1, 6, 4, 1)), jnp.zeros(1))
