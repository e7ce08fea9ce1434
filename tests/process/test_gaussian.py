"""Gaussian process: against DDPM's tables, Bayes' rule and the closed-form KL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64, level
from diffusion_jax.process.gaussian import GaussianProcess

PROCESS = GaussianProcess()


def chain_coefficients(schedule, steps):
    return in_float64(PROCESS.coefficients, schedule, np.arange(steps, -1, -1) / steps)


def test_coefficients_are_those_of_ddpm():
    steps = 1000
    grid = chain_coefficients(schedules.linear(steps), steps)
    betas = np.linspace(1e-4, 0.02, steps)
    alpha_bar = np.cumprod(1 - betas)
    before = np.append(1.0, alpha_bar[:-1])
    variance = betas * (1 - before) / (1 - alpha_bar)
    flip = slice(None, None, -1)  # the time grid falls
    np.testing.assert_allclose(np.exp(grid.log_var_large[flip]), betas, rtol=1e-10)
    np.testing.assert_allclose(np.exp(grid.log_var_small[flip])[1:], variance[1:], rtol=1e-9)
    np.testing.assert_allclose(grid.x0_scale[flip], np.sqrt(before) * betas / (1 - alpha_bar), rtol=1e-9)
    x_t_scale = np.sqrt(1 - betas) * (1 - before) / (1 - alpha_bar)
    np.testing.assert_allclose(grid.x_t_scale[flip], x_t_scale, rtol=1e-9, atol=1e-15)
    # published values
    assert np.exp(grid.log_var_small[-2]) == pytest.approx(5.453187661e-05, rel=1e-9)
    assert grid.log_var_small[-1] == grid.log_var_small[-2] == pytest.approx(np.log(variance[1]), rel=1e-12)
    assert np.exp(grid.log_var_large).sum() == pytest.approx(10.05, rel=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "subvp", "ve", "edm"])
def test_posterior_is_bayes_rule(name, x64):
    """The posterior is the joint Gaussian of (x_s, x_t) given x0, conditioned on x_t."""
    schedule = schedules.CHAINS[name](100) if name in schedules.CHAINS else schedules.CONTINUOUS[name]()
    times = np.array([1.0, 0.7, 0.31, 0.3])
    grid = in_float64(PROCESS.coefficients, schedule, times)
    a, s = (np.exp(x) for x in in_float64(schedule, times))
    x0, x_t = 0.3, -1.1
    for i in range(3):
        step = a[i] / a[i + 1]
        cov_ts = step * s[i + 1] ** 2
        gain = cov_ts / s[i] ** 2
        mean = a[i + 1] * x0 + gain * (x_t - a[i] * x0)
        var = s[i + 1] ** 2 - gain * cov_ts
        row = jax.tree.map(lambda f, i=i: jnp.asarray(f)[i : i + 1], grid)
        got_mean, got_log_var = PROCESS.posterior(row, jnp.full((1, 1), x0), jnp.full((1, 1), x_t))
        np.testing.assert_allclose(got_mean, mean, rtol=1e-9)
        np.testing.assert_allclose(jnp.exp(got_log_var), var, rtol=1e-8)
        np.testing.assert_allclose(np.exp(grid.log_var_large[i]), s[i] ** 2 - step**2 * s[i + 1] ** 2, rtol=1e-8)


def test_prior_kl_of_ddpm():
    """KL(q(x_1 | x0) || N(0, I)) = 1/2 (abar (x0² - 1) - log(1 - abar)) nats per dimension, some 2.04e-5 bits."""
    second_moment, alpha_bar = 0.7, np.prod(1 - np.linspace(1e-4, 0.02, 1000))
    nats = in_float64(PROCESS.prior_kl, schedules.linear(1000), np.full((1, 4), np.sqrt(second_moment)))
    expected = 0.5 * (alpha_bar * (second_moment - 1) - np.log1p(-alpha_bar))
    assert nats[0] / 4 == pytest.approx(expected, rel=1e-9)
    assert nats[0] / 4 / np.log(2) == pytest.approx(2.911e-05 * second_moment + 5.9e-10, rel=1e-3)


def test_kl_sums_over_dimensions_and_vanishes_between_equals(x64):
    mean = jax.random.normal(jax.random.key(0), (3, 2, 5))
    scalar = jnp.full((3, 1, 1), -0.4)
    np.testing.assert_array_equal(PROCESS.kl((mean, scalar), (mean, scalar)), 0)
    kl = PROCESS.kl((mean, scalar), (mean + 1, scalar + 0.7))
    one = 0.5 * (0.7 + np.exp(-0.7) + 1 / np.exp(0.3) - 1)
    np.testing.assert_allclose(kl, 10 * one, rtol=1e-12)
    full = jnp.broadcast_to(scalar, mean.shape)
    np.testing.assert_allclose(PROCESS.kl((mean, full), (mean + 1, scalar + 0.7)), kl, rtol=1e-12)


def test_corrupt_has_the_moments_of_q(x64):
    schedule = schedules.linear(10)
    at = level(schedule, jnp.array([0.3, 0.9]))
    x0, noise = jnp.ones((2, 3)), jnp.full((2, 3), 2.0)
    expected = np.exp(at.log_alpha)[:, None] + 2 * np.exp(at.log_sigma)[:, None]
    np.testing.assert_allclose(PROCESS.corrupt(at, x0, noise), np.broadcast_to(expected, (2, 3)), rtol=1e-12)


@pytest.mark.parametrize(("name", "sigma"), [("vp", 1.0), ("ve", np.hypot(1, 50.0))])
def test_prior_has_its_variance_and_each_example_its_own_key(name, sigma):
    schedule = schedules.CONTINUOUS[name]()
    keys = jax.random.split(jax.random.key(0), 4000)
    x = PROCESS.prior(schedule, keys, (2, 3))
    assert x.shape == (4000, 2, 3)
    assert float(x.std()) == pytest.approx(sigma, rel=5 / (2 * x.size) ** 0.5)  # 5 standard errors
    np.testing.assert_array_equal(x[7:9], PROCESS.prior(schedule, keys[7:9], (2, 3)))


def test_coefficients_of_a_learned_schedule_can_be_differentiated(x64):
    def total(rate):
        grid = PROCESS.coefficients(
            lambda t: (-rate * t, 0.5 * jnp.log(-jnp.expm1(-2 * rate * t))), jnp.linspace(1, 0.1, 5)
        )
        return jnp.sum(grid.x0_scale + grid.log_var_small)

    gradient = jax.jit(jax.grad(total))(1.3)
    difference = (total(1.3 + 1e-5) - total(1.3 - 1e-5)) / 2e-5
    assert float(gradient) == pytest.approx(float(difference), rel=1e-6)
