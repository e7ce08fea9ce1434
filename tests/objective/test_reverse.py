"""Variances of the reverse kernel, and the data for which they are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective import reverse
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64
from diffusion_jax.process.gaussian import GaussianProcess

STEPS = 20
PROCESS = GaussianProcess()


@pytest.fixture
def steps(x64):
    steps = in_float64(PROCESS.coefficients, schedules.linear(STEPS), np.arange(STEPS, -1, -1) / STEPS)
    return jax.tree.map(jnp.asarray, steps)


def prediction(head=None):
    return Prediction(jnp.full((STEPS, 3), 0.4), jnp.zeros((STEPS, 3)), head)


def test_mean_is_the_posterior_mean_of_the_predicted_x0(steps):
    x_t = jnp.ones((STEPS, 3))
    expected, _ = PROCESS.posterior(steps, prediction().x0, x_t)
    head = jnp.zeros((STEPS, 3))
    for make in reverse.VARIANCES.values():
        np.testing.assert_array_equal(make(PROCESS)(steps, prediction(head), x_t)[0], expected)


def test_fixed_variances(steps):
    x_t = jnp.ones((STEPS, 3))
    betas = np.linspace(1e-4, 0.02, STEPS)[::-1]
    _, small = reverse.fixed_small(PROCESS)(steps, prediction(), x_t)
    _, large = reverse.fixed_large(PROCESS)(steps, prediction(), x_t)
    _, forward = reverse.fixed_large(PROCESS, noiseless="forward")(steps, prediction(), x_t)
    np.testing.assert_allclose(jnp.exp(forward[:, 0]), betas, rtol=1e-9)
    np.testing.assert_allclose(jnp.exp(large[:-1, 0]), betas[:-1], rtol=1e-9)
    assert float(large[-1, 0]) == float(small[-1, 0]) == float(small[-2, 0])
    with pytest.raises(ValueError, match="noiseless"):
        reverse.fixed_large(PROCESS, noiseless="nothing")


def test_learned_variances(steps):
    x_t = jnp.ones((STEPS, 3))
    _, small = reverse.fixed_small(PROCESS)(steps, prediction(), x_t)
    for head, expected in (
        (-1.0, small),
        (1.0, steps.log_var_large[:, None]),
        (0.0, (small + steps.log_var_large[:, None]) / 2),
    ):
        _, got = reverse.learned_range(PROCESS)(steps, prediction(jnp.full((STEPS, 3), head)), x_t)
        np.testing.assert_allclose(got, jnp.broadcast_to(expected, (STEPS, 3)), rtol=1e-12)
    _, got = reverse.learned_diagonal(PROCESS)(steps, prediction(jnp.full((STEPS, 3), -3.0)), x_t)
    np.testing.assert_array_equal(got, -3.0)


def test_large_is_the_true_variance_for_standard_normal_data(steps):
    """x_s | x_t for x0 ~ N(0, I) and a variance-preserving chain: N(sqrt(1 - beta) x_t, beta)."""
    x_t = jnp.full((STEPS, 3), 1.7)
    x0 = steps.at.alpha[:, None] * x_t  # E[x0 | x_t]
    mean, log_var = reverse.fixed_large(PROCESS, "forward")(steps, Prediction(x0, None, None), x_t)
    beta = jnp.exp(steps.log_var_large)[:, None]
    np.testing.assert_allclose(mean, jnp.sqrt(1 - beta) * x_t, rtol=1e-9)
    np.testing.assert_allclose(jnp.exp(log_var), beta, rtol=1e-12)
