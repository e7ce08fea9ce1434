"""Weights against their definitions in x0, and the loss of the exact denoiser against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.objective import losses, prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, level
from diffusion_jax.process.gaussian import gaussian

SCHEDULE = schedules.cosine(100)
AT = level(SCHEDULE, jnp.array([0.05, 0.3, 0.5, 0.8, 0.95]))
SNR = jnp.exp(AT.logsnr)
WEIGHT_OF_X0 = {
    "snr": SNR,
    "truncated_snr": jnp.maximum(SNR, 1),
    "min_snr": jnp.minimum(SNR, 5),
    "p2": SNR / (1 + SNR),
}


@pytest.mark.parametrize("name", WEIGHT_OF_X0)
@pytest.mark.parametrize("target", prediction.TARGETS)
def test_weight_is_the_same_on_x0_whatever_the_network_predicts(name, target):
    """An error d in x0 (x_t known) is an error (a - b alpha/sigma) d in the target."""
    a, b = row = prediction.TARGETS[target]()(SCHEDULE, AT)
    scale = (a - b * AT.alpha / AT.sigma) ** 2
    np.testing.assert_allclose(losses.WEIGHTS[name]()(AT, row) * scale, WEIGHT_OF_X0[name], rtol=1e-5)


def test_simple_is_one_on_the_target_itself():
    np.testing.assert_array_equal(losses.simple()(AT, (AT.t, AT.t)), 1)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_loss_of_the_exact_denoiser_is_the_conditional_variance(target, x64):
    """For x0 ~ N(0, v): Var[x0 | x_t] = v sigma²/(alpha² v + sigma²), and the target's error is a known multiple."""
    variance, n = 0.3, 40_000
    data = oracles.Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), variance))
    make = prediction.TARGETS[target]()
    loss = losses.weighted_mse(
        lambda params, x, at, label, keys: oracles.exact(data)(x, at),
        gaussian(),
        lambda params: SCHEDULE,
        make,
        losses.simple(),
    )
    key = jax.random.key(0)
    batch = {"x0": variance**0.5 * jax.random.normal(key, (n, 1)), "label": jnp.full(n, -1)}
    t = jnp.full(n, 0.4)
    per_example, metrics = loss(None, batch, t, jax.random.split(jax.random.key(1), n))
    at = level(SCHEDULE, t[:1])
    a, b = make(SCHEDULE, at)
    of_x0 = variance * at.sigma**2 / (at.alpha**2 * variance + at.sigma**2)
    expected = float((of_x0 * (a - b * at.alpha / at.sigma) ** 2)[0])
    standard_error = float(per_example.std()) / n**0.5
    assert abs(float(per_example.mean()) - expected) < 4 * standard_error
    np.testing.assert_array_equal(metrics["mse"], per_example)


def test_keys_reach_the_network_only_with_dropout_and_labels_always():
    seen = []

    def predict(params, x, at, label, keys):
        seen.append((label, keys))
        return prediction.Prediction(x, x, None)

    loss = losses.weighted_mse(predict, gaussian(), lambda p: SCHEDULE, prediction.eps(), losses.simple())
    batch = {"x0": jnp.zeros((2, 3)), "label": jnp.array([4, 5])}
    keys = jax.random.split(jax.random.key(0), 2)
    loss(None, batch, jnp.array([0.1, 0.2]), keys)
    loss(None, batch, jnp.array([0.1, 0.2]), keys, dropout=False)
    np.testing.assert_array_equal(seen[0][0], [4, 5])
    assert seen[0][1].shape == (2,) and seen[1][1] is None


def test_noise_depends_on_each_examples_own_key():
    def predict(params, x, at, label, keys):
        return prediction.Prediction(x, jnp.zeros_like(x), None)

    loss = losses.weighted_mse(predict, gaussian(), lambda p: SCHEDULE, prediction.eps(), losses.simple())
    keys = jax.random.split(jax.random.key(0), 4)
    batch = {"x0": jnp.zeros((4, 6)), "label": jnp.zeros(4, int)}
    whole, _ = loss(None, batch, jnp.full(4, 0.5), keys)
    share, _ = loss(None, jax.tree.map(lambda x: x[2:], batch), jnp.full(2, 0.5), keys[2:])
    np.testing.assert_array_equal(share, whole[2:])
    assert len(np.unique(whole)) == 4


def test_level_is_a_plain_tuple():
    assert isinstance(AT, Level) and len(jax.tree.leaves(AT)) == 3
