"""Networks of users: their calls, dropout by key, and refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import registry
from diffusion_jax.networks.adapter import adapt

KEY = jax.random.key(0)
KEYS = jax.random.split(jax.random.key(1), 4)
TIME = jnp.array([0.0, 0.5, 17.0, 999.0])
LABEL = jnp.array([0, 1, 2, 1])
SHAPES = {"vectors": (4, 3), "oblong": (4, 6, 10, 1)}


def drawn(*shape):
    return jnp.asarray(np.random.RandomState(0).normal(size=shape), jnp.float32)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        time = time.reshape(-1, *[1] * (x.ndim - 1))
        return nn.Dense(x.shape[-1])(nn.silu(nn.Dense(8)(x) + jnp.sin(time)))


class Labelled(nn.Module):
    @nn.compact
    def __call__(self, x, t, y):
        return Plain()(x, t) + nn.Embed(4, x.shape[-1])(y).reshape(-1, *[1] * (x.ndim - 2), x.shape[-1])


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, time, label=None, deterministic=False):
        return Plain()(nn.Dropout(0.5)(x, deterministic=deterministic), time)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, time, *, train):
        return Plain()(nn.Dropout(0.5, deterministic=not train)(x), time)


class AsksForRng(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return Plain()(nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(x), time)


class Keyed(nn.Module):
    @nn.compact
    def __call__(self, x, time, label=None, keys=None):
        if keys is not None:
            x = x + jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        return Plain()(x, time)


def run(module, x, label=None, keys=None, **options):
    net = adapt(module, **options)
    params = jax.jit(net.init)(KEY, x[:1], TIME[:1], jnp.zeros(1, jnp.int32), None)
    assert set(params) == {"params"}
    return jax.jit(net.apply)(params, x, TIME, label, keys)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("module", [Plain(), Labelled(), Dropping(), Training(), AsksForRng(), Keyed()])
def test_each_call_gives_an_output_of_the_shape_of_x(module, shape):
    x = drawn(*shape)
    for label, keys in ((None, None), (LABEL, None), (LABEL, KEYS), (None, KEYS)):
        assert run(module, x, label, keys).shape == shape


@pytest.mark.parametrize("module", [Dropping(), Training(), AsksForRng(), Keyed()])
def test_dropout_follows_from_the_key_of_an_example_alone(module):
    x = drawn(4, 6)
    still, whole = run(module, x), run(module, x, None, KEYS)
    np.testing.assert_array_equal(still, run(module, x))
    assert np.abs(whole - still).max() > 0.01
    turned = run_at(module, x, np.array([2, 0, 3, 1]))
    np.testing.assert_allclose(whole, turned, atol=1e-5)  # equal but for rounding, 1e-7
    one = jnp.broadcast_to(x[0], x.shape)
    assert len(np.unique(np.asarray(run(module, one, None, KEYS)).round(4), axis=0)) == 4


def run_at(module, x, order):
    """The outputs of a batch in another order, put back."""
    net = adapt(module)
    params = jax.jit(net.init)(KEY, x[:1], TIME[:1], None, None)
    out = jax.jit(net.apply)(params, x[order], TIME[order], None, KEYS[order])
    return out[np.argsort(order)]


def test_the_label_changes_the_output_and_none_is_the_last_row():
    x = jnp.broadcast_to(drawn(1, 3), (4, 3))
    out = run(Labelled(), x, jnp.array([0, 1, 3, -1]))
    assert np.abs(out[0] - out[1]).max() > 0.01
    np.testing.assert_array_equal(run(Labelled(), x)[3], out[3])
    np.testing.assert_array_equal(run(Plain(), x, LABEL), run(Plain(), x))


def test_gradients_pass_through_dropout_by_key():
    net, x = adapt(Dropping()), drawn(4, 3)
    params = net.init(KEY, x, TIME)
    gradient = jax.jit(jax.grad(lambda params: jnp.square(net.apply(params, x, TIME, None, KEYS)).sum()))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_built_in_networks_are_returned_as_they_are():
    for factory in registry.NETWORKS.values():
        net = factory(**{"out_channels": 3} | ({"num_steps": 4} if "num_steps" in factory.__annotations__ else {}))
        assert adapt(net) is net


class Doubling(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return nn.Dense(2 * x.shape[-1])(x)


def test_output_channels_can_be_chosen():
    assert run(Doubling(), drawn(4, 3), out_channels=6).shape == (4, 6)


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return nn.Dense(3)(x).mean(1)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return x, x


@pytest.mark.parametrize(
    ("module", "options"),
    [(Doubling(), {}), (Plain(), {"out_channels": 6}), (Flat(), {}), (Pair(), {})],
    ids=["too many channels", "too few channels", "no channels", "a tuple"],
)
@pytest.mark.parametrize("keys", [None, KEYS])
def test_another_shape_of_the_output_is_refused(module, options, keys):
    x, net = jnp.zeros((4, 3)), adapt(module, **options)
    params = jax.eval_shape(module.init, KEY, x, TIME)
    with pytest.raises(ValueError, match=type(module).__name__):
        jax.eval_shape(net.init, KEY, x, TIME)
    with pytest.raises(ValueError, match=type(module).__name__):
        jax.eval_shape(net.apply, params, x, TIME, None, keys)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, time, train=False):
        return nn.BatchNorm(use_running_average=not train)(x)


def test_state_beside_the_parameters_is_refused():
    with pytest.raises(ValueError, match="batch_stats"):
        jax.eval_shape(adapt(Normed()).init, KEY, jnp.zeros((4, 3)), TIME)


class AlwaysDropping(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return nn.Dropout(0.5, deterministic=False)(x)


def test_dropout_that_cannot_be_switched_off_is_refused():
    with pytest.raises(ValueError, match="AlwaysDropping"):
        jax.eval_shape(adapt(AlwaysDropping()).init, KEY, jnp.zeros((4, 3)), TIME)


class NoTime(nn.Module):
    def __call__(self, x):
        return x


class TooMuch(nn.Module):
    def __call__(self, x, time, label, text):
        return x


class KeysFirst(nn.Module):
    def __call__(self, x, keys, time):
        return x


@pytest.mark.parametrize("module", [NoTime(), TooMuch(), KeysFirst(), Plain, lambda x, time: x])
def test_modules_that_cannot_be_called_are_refused_in_one_line(module):
    with pytest.raises(ValueError, match="network") as caught:
        adapt(module)
    assert "\n" not in str(caught.value)
