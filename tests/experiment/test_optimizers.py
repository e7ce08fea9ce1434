"""Optimisers and learning rates by name: what they compute of a gradient, and at which step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax import config as configs
from diffusion_jax.experiment import optimizers


def config(**keys):
    c = configs.defaults()
    c.train_steps = 100
    c.optimizer.update(learning_rate=0.1, warmup_steps=10, grad_clip=0.0)
    for key, value in keys.items():
        configs.put(c, f"optimizer.{key.replace('__', '.')}", value)
    return c


def rates(**keys):
    rate = optimizers.learning_rate(config(**keys))
    return np.array([rate(n) for n in range(101)], np.float64)


def first_update(gradient, params=None, **keys):
    optimizer = optimizers.optimizer(config(warmup_steps=0, **keys))
    params = jax.tree.map(jnp.zeros_like, gradient) if params is None else params
    return optimizer.update(gradient, optimizer.init(params), params)[0]


def test_learning_rates():
    n = np.arange(101)
    rising = 0.1 * np.minimum(n / 10, 1)
    close = {"rtol": 1e-5, "atol": 1e-8}
    np.testing.assert_allclose(rates(), rising, **close)
    np.testing.assert_allclose(
        rates(schedule="linear", linear__start=50, linear__final=0.2),
        np.where(n < 50, rising, 0.1 - 0.08 * (n - 50) / 50),
        **close,
    )
    np.testing.assert_allclose(
        rates(schedule="cosine", cosine__total_steps=60)[10:61],
        0.05 * (1 + np.cos(np.pi * np.arange(51) / 50)),
        **close,
    )
    np.testing.assert_allclose(
        rates(schedule="inverse_sqrt", inverse_sqrt__start=25), rising / np.sqrt(np.maximum(n / 25, 1)), **close
    )


def test_defaults_are_adam_with_a_linear_warm_up_bit_for_bit():
    c = configs.defaults()
    ours = optimizers.optimizer(c)
    plain = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0.0, 2e-4, 5000), b1=0.9, b2=0.999, eps=1e-8)
    )
    params = {"w": jax.random.normal(jax.random.key(0), (5,))}
    states = [made.init(params) for made in (ours, plain)]
    for n in range(3):
        gradient = {"w": jax.random.normal(jax.random.key(n), (5,))}
        (a, states[0]), (b, states[1]) = (
            made.update(gradient, state, params) for made, state in zip((ours, plain), states, strict=True)
        )
        np.testing.assert_array_equal(a["w"], b["w"])


@pytest.mark.parametrize("name", ["adam", "adamw", "lion", "muon"])
def test_weight_decay_shrinks_parameters_without_a_gradient_but_no_learned_schedule(name):
    params = {"net": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "schedule": {"bias": jnp.array(-13.3)}}
    update = first_update(jax.tree.map(jnp.zeros_like, params), params, name=name, **{f"{name}__weight_decay": 0.01})
    for array in jax.tree.leaves(update["net"]):
        np.testing.assert_allclose(array, -0.001, rtol=1e-5)
    assert update["schedule"]["bias"] == 0


@pytest.mark.parametrize(("name", "made"), [("adamw", optax.adamw(0.1)), ("lion", optax.lion(0.1))])
def test_decay_has_the_state_of_optax(name, made):
    """So that runs go on which earlier versions stored."""
    params = {"net": {"w": jnp.ones((2, 3))}}
    ours = optimizers.OPTIMIZERS[name](0.1, weight_decay=0.01)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(made.init(params))


def test_first_updates():
    """Adam and Lion move by the learning rate against the sign; Muon's updates of kernels are nearly orthogonal."""
    gradient = jnp.array([0.5, -2.0, 1e-3])
    for name in ("adam", "lion"):
        np.testing.assert_allclose(first_update({"w": gradient}, name=name)["w"], -0.1 * jnp.sign(gradient), rtol=1e-4)
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
    update = first_update({"kernel": kernel, "bias": gradient}, name="muon", muon__steps=30, muon__rms=0.2)
    nesterov = 1 + 0.9 * 0.1 / (1 - 0.9**2)  # optax's Adam beside Muon
    np.testing.assert_allclose(update["bias"], -0.1 * nesterov * jnp.sign(gradient), rtol=1e-4)
    values = np.linalg.svd(np.reshape(update["kernel"], (36, 8)), compute_uv=False)
    # Newton-Schulz with these coefficients brings singular values between 0.68 and 1.13 (Jordan et al. 2024), not to 1.
    size = 0.1 * 0.2 * 6
    assert (values > 0.6 * size).all() and (values < 1.2 * size).all()


def mine(learning_rate, momentum: float = 0.5):
    """An optimiser of one's own."""
    return optax.sgd(learning_rate, momentum)


def halved(learning_rate, train_steps, until: int = 3):
    """A learning rate of one's own."""
    return lambda n: learning_rate * jnp.where(n < until, 1.0, 0.5)


def test_imported_functions_have_their_options():
    c = config()
    own = {
        "optimizer.name": f"{__name__}:mine",
        "optimizer.options.momentum": "0.1",
        "optimizer.schedule": f"{__name__}:halved",
        "optimizer.schedule_options.until": "5",
    }
    configs.override_all(c, own)
    assert [float(optimizers.learning_rate(c)(n)) for n in (4, 5)] == pytest.approx([0.1, 0.05])
    assert configs.plain(configs.merge(configs.plain(c))) == configs.plain(c)
    assert configs.in_use(configs.plain(c))["optimizer.options.momentum"] == 0.1
    optimizers.optimizer(c)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"name": "adm"}, "adam"),
        ({"schedule": "cosin"}, "cosine"),
        ({"name": "lion", "lion__b1": 1.0}, "optimizer.lion.b1"),
        ({"schedule": "cosine", "cosine__final": -1.0}, "optimizer.cosine.final"),
        ({"schedule": "cosine", "cosine__total_steps": 10}, "optimizer.cosine.total_steps"),
        ({"schedule": "linear", "linear__start": 100}, "optimizer.linear.total_steps"),
        ({"schedule": "inverse_sqrt", "inverse_sqrt__start": 0}, "optimizer.inverse_sqrt.start"),
    ],
)
def test_refusals(keys, named):
    with pytest.raises(ValueError, match=named):
        optimizers.optimizer(config(**keys))


def test_a_decay_ends_where_training_was_to_end_when_it_started():
    c = optimizers.fill_in(config(schedule="cosine"))
    assert c.optimizer.cosine.total_steps == 100 and c.optimizer.linear.total_steps == 0
    c.train_steps = 200
    assert optimizers.fill_in(c).optimizer.cosine.total_steps == 100
    longer = config(schedule="cosine")
    longer.train_steps = 200
    assert optimizers.fill_in(longer, c.to_dict()).optimizer.cosine.total_steps == 100


def test_steps_at_a_rate_of_zero_are_refused():
    c = config(schedule="cosine", cosine__total_steps=60)
    with pytest.raises(ValueError, match=r"optimizer\.cosine\.total_steps=60"):
        optimizers.check_decay(c)
    for keys in ({"cosine__total_steps": 100}, {"cosine__total_steps": 60, "cosine__final": 0.1}, {}):
        optimizers.check_decay(config(schedule="cosine", **keys))
    optimizers.check_decay(config(schedule="constant"))
    optimizers.check_decay(config(schedule="inverse_sqrt"))
