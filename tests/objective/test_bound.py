"""Variational bound: against closed forms for Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.objective import bound, decoders, reverse
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import expand
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop

PROCESS = GaussianProcess()
CHAINS = {"linear": schedules.linear, "cosine": schedules.cosine}
FORWARD = {
    "fixed_small": reverse.fixed_small(PROCESS),
    "fixed_large": reverse.fixed_large(PROCESS),
    "forward": reverse.fixed_large(PROCESS, noiseless="forward"),
}


def moments(data_variance, nodes=7):
    """Return Gauss-Hermite nodes x0 [n], noise [n] and weights [n], exact up to degree 12 in both."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    x0, noise = np.meshgrid(z * data_variance**0.5, z, indexing="ij")
    return x0.ravel(), noise.ravel(), np.outer(w, w).ravel()


def expected_terms(grid, kernel, denoise, variance):
    """Return the mean over q of each step's term for x0 ~ N(0, variance), D = 1, by exact quadrature."""
    x0, noise, weights = moments(variance)
    term = bound.step_term(PROCESS, kernel, decoders.density())
    x = jnp.asarray(x0)[:, None]

    def mean_term(step):
        step = jax.tree.map(lambda field: jnp.full(len(x0), field), step)
        x_t = PROCESS.corrupt(step.at, x, jnp.asarray(noise)[:, None])
        return weights @ term(step, Prediction(denoise(step.at, x_t), None, None), x, x_t)

    return np.asarray(jax.jit(lambda: jax.lax.map(mean_term, jax.tree.map(jnp.asarray, grid)))())


def exact(variance):
    def denoise(at, x_t):
        gain = at.alpha * variance / (at.alpha**2 * variance + at.sigma**2)
        return expand(gain, x_t) * x_t

    return denoise


@pytest.mark.parametrize("name", CHAINS)
def test_bound_equals_the_entropy_of_unit_gaussian_data(name, x64):
    """With eps-hat = sqrt(1 - alpha_bar) x_t and variance beta_t the reversal of N(0, 1) data is exact."""
    schedule = CHAINS[name](1000)
    grid = loop.coefficients(PROCESS, schedule, grids.uniform(1000, 1000), denoise=True)
    steps = expected_terms(grid, FORWARD["forward"], lambda at, x_t: expand(at.alpha, x_t) * x_t, 1.0)
    x0, _, weights = moments(1.0)
    prior = float(weights @ PROCESS.prior_kl(schedule, jnp.asarray(x0)[:, None]))
    assert prior + steps.sum() == pytest.approx(1.4189385332046727, abs=1e-9)
    if name == "linear":  # published values
        assert prior == pytest.approx(2.01796e-05, rel=1e-4)
        assert steps[:-1].sum() == pytest.approx(4.60515001, abs=1e-7)
        assert steps[-1] == pytest.approx(-3.18623165, abs=1e-7)


def test_bound_of_a_rectified_flow_tends_to_the_entropy_from_above(x64):
    """From alpha(1) = 0 down to no noise, on N(0, 1)."""
    schedule, gaps = schedules.rectified_flow(), []
    for count in (100, 200):
        grid = loop.coefficients(PROCESS, schedule, grids.uniform(count))
        steps = expected_terms(grid, FORWARD["forward"], exact(1.0), 1.0)
        gaps.append(steps.sum() - 1.4189385332046727)
    assert 0 < gaps[1] < 0.6 * gaps[0] < 0.1, gaps
    np.testing.assert_array_equal(PROCESS.prior_kl(schedule, jnp.ones((2, 3))), 0)


def closed_form(alpha_bar, data_variance, model_variance):
    """Return (prior, terms) for x0 ~ N(0, v) with the exact denoiser, from the definitions of a chain."""
    alpha_bar = np.append(1.0, alpha_bar)
    terms = []
    for k in range(len(alpha_bar) - 1, 0, -1):
        now, before = alpha_bar[k], alpha_bar[k - 1]
        beta = 1 - now / before
        c0 = np.sqrt(before) * beta / (1 - now)
        error = data_variance * (1 - now) / (now * data_variance + 1 - now)  # Var[x0 | x_t]
        var = model_variance[k - 1]
        if k > 1:
            posterior = beta * (1 - before) / (1 - now)
            terms.append(0.5 * (np.log(var / posterior) + posterior / var - 1 + c0**2 * error / var))
        else:
            terms.append(0.5 * (np.log(2 * np.pi * var) + error / var))
    last = 1 - alpha_bar[-1]
    prior = 0.5 * (alpha_bar[-1] * data_variance + last - 1 - np.log(last))
    return prior, np.array(terms)


@pytest.mark.parametrize("data_variance", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("variance", FORWARD)
@pytest.mark.parametrize("name", CHAINS)
def test_bound_of_any_gaussian_data_with_any_fixed_variance(name, variance, data_variance, x64):
    schedule, num_steps = CHAINS[name](50), 50
    log_alpha, _ = schedule(jnp.arange(1, 51) / 50)
    alpha_bar = np.exp(2 * np.asarray(log_alpha))
    before = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / before
    small = beta * (1 - before) / (1 - alpha_bar)
    small[0] = small[1]
    large = beta.copy()
    if variance == "fixed_large":
        large[0] = small[0]
    prior, terms = closed_form(alpha_bar, data_variance, small if variance == "fixed_small" else large)
    grid = loop.coefficients(PROCESS, schedule, grids.uniform(num_steps, num_steps), denoise=True)
    got = expected_terms(grid, FORWARD[variance], exact(data_variance), data_variance)
    np.testing.assert_allclose(got, terms, rtol=1e-9, atol=1e-12)
    x0, _, weights = moments(data_variance)
    assert float(weights @ PROCESS.prior_kl(schedule, jnp.asarray(x0)[:, None])) == pytest.approx(prior, rel=1e-9)


def test_last_level_with_noise_is_decoded_without_the_network(x64):
    """sigma(0) > 0: one more step, which decodes x_0/alpha whatever the network's output is."""
    grid = loop.coefficients(PROCESS, schedules.ve(0.02, 5.0), grids.uniform(20), denoise=True)
    last = jax.tree.map(lambda field: jnp.full(1, field[-1]), grid)
    assert last.at.t[0] == 0 and np.isneginf(last.to.log_sigma[0])
    term = bound.step_term(PROCESS, FORWARD["fixed_small"], decoders.softmax(17))
    x0, x_t = jnp.full((1, 3), 0.25), jnp.array([[0.25, 0.26, 0.2]])
    got = [float(term(last, Prediction(jnp.full((1, 3), guess), None, None), x0, x_t)[0]) for guess in (0.25, -1.0)]
    grid = np.arange(17) / 8 - 1
    logits = -((np.asarray(x_t).T - grid) ** 2) / (2 * 0.02**2)
    expected = (np.log(np.exp(logits).sum(1)) - logits[:, 10]).sum()
    assert got[0] == got[1] == pytest.approx(expected, rel=1e-9)


def test_bound_is_tight_for_exact_reversal_of_noisy_data(x64):
    """VE with noise at t = 0, unit Gaussian data: the gap to the entropy of x0 is of first order in the step."""
    schedule = schedules.ve(0.01, 50.0)
    gaps = []
    for steps in (200, 800):
        grid = loop.coefficients(PROCESS, schedule, grids.uniform(steps), denoise=True)
        terms = expected_terms(grid, FORWARD["fixed_small"], exact(1.0), 1.0)
        x0, _, weights = moments(1.0)
        prior = float(weights @ PROCESS.prior_kl(schedule, jnp.asarray(x0)[:, None]))
        gaps.append(prior + terms.sum() - 1.4189385332)
    assert 0 < gaps[1] < 0.05
    assert np.log(gaps[0] / gaps[1]) / np.log(4) == pytest.approx(1, abs=0.2)


def test_stop_mean_gradient_leaves_the_gradient_of_the_head():
    def value(x0, head):
        stopped = bound.stop_mean_gradient(Prediction(x0, x0, head))
        return jnp.sum(stopped.x0 + stopped.eps + stopped.head)

    assert [float(g) for g in jax.grad(value, (0, 1))(jnp.array(1.0), jnp.array(1.0))] == [0, 1]


def test_oracle_agrees_with_the_denoiser_of_this_file(x64):
    grid = loop.coefficients(PROCESS, schedules.linear(5), grids.uniform(5, 5))
    at = jax.tree.map(lambda field: jnp.full(2, field[2]), grid.at)
    data = oracles.Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), 0.3))
    x_t = jnp.array([[0.4], [-1.0]])
    np.testing.assert_allclose(oracles.denoise(data, at, x_t), exact(0.3)(at, x_t), rtol=1e-12)
