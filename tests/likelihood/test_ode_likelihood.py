"""Likelihood under the probability-flow ODE: against exact densities, and dequantisation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.likelihood import ode_likelihood, path_bound, variational
from diffusion_jax.objective import bound, decoders, reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, level
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop

DATA, SIZE = oracles.TWO_MODES, 16
PATHS = {
    "vp": (schedules.vp(), 1e-5),
    "subvp": (schedules.subvp(), 1e-5),
    "ve": (schedules.ve(), 0.0),
    "edm": (schedules.edm(), 0.0),
    "chain": (schedules.linear(1000), 1e-3),
    "rectified_flow": (schedules.rectified_flow(), 1e-3),
}


def predict(params, x, at, label, keys):
    return oracles.exact(DATA)(x, at)


def marginal(at, x):
    """Return the exact log density of x_1."""
    return oracles.log_density(DATA, jax.tree.map(lambda field: jnp.broadcast_to(field, len(x)), at), x)


def noisy_data(schedule, min_t, dtype, number=SIZE):
    at = level(schedule, jnp.full(number, min_t, dtype))
    x0 = jnp.asarray(oracles.draw(DATA, number), dtype)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=x0.shape), dtype)
    return at, at.alpha[:, None] * x0 + at.sigma[:, None] * noise


@functools.partial(jax.jit, static_argnames=("trace", "probes"))
def compiled(index, x, min_t, tolerance, max_calls, prior, trace, probes):
    """Return the density under the schedule of PATHS with a given number; one compiled program for all schedules."""

    def schedule(index):
        return lambda t: jax.lax.switch(index, [schedule for schedule, _ in PATHS.values()], t)

    def terminal(at, x):
        return jnp.where(prior, ode_likelihood.TERMINAL_LOG_DENSITIES["prior"](at, x), marginal(at, x))

    keys = jax.random.split(jax.random.key(3), len(x))
    options = {"rtol": tolerance, "atol": tolerance, "max_calls": max_calls}
    return ode_likelihood.make_density(
        predict, schedule, min_t, **options, terminal=terminal, trace=trace, probes=probes
    )(index, keys, x)


def solve(index, x, min_t, tolerance, max_calls=10_000, prior=False, trace="exact", probes=1):
    return compiled(index, x, min_t, tolerance, max_calls, prior, trace, probes)


VP = 0


@pytest.mark.parametrize("index", range(len(PATHS)), ids=tuple(PATHS))
def test_equals_the_marginal_in_float32(index):
    """With the exact trace and the exact density of x_1, to 2e-4 nats per sample at tolerances of 1e-6."""
    schedule, min_t = list(PATHS.values())[index]
    _, x = noisy_data(schedule, min_t, jnp.float32)
    result = solve(index, x, min_t, 1e-6)
    assert result.ok.all() and result.volume.shape == (SIZE, 1) and result.log_prob.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = oracles.log_density(DATA, level(schedule, jnp.full(SIZE, min_t)), jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(result.log_prob, exact, rtol=0, atol=2e-4)


def test_equals_the_marginal_in_float64(x64):
    """To 1e-7 nats per sample; with the prior at t = 1 the difference is log p_1 - log prior at x_1."""
    schedule, min_t = PATHS["vp"]
    at, x = noisy_data(schedule, min_t, jnp.float64)
    result = solve(VP, x, min_t, 1e-9)
    exact = oracles.log_density(DATA, at, x)
    np.testing.assert_allclose(result.log_prob, exact, rtol=0, atol=1e-7)

    prior = solve(VP, x, min_t, 1e-9, prior=True)
    end = level(schedule, jnp.ones(SIZE))
    difference = oracles.log_density(DATA, end, result.x_1) - ode_likelihood.TERMINAL_LOG_DENSITIES["prior"](
        level(schedule, jnp.ones(())), result.x_1
    )
    assert np.abs(difference).max() > 1e-4
    np.testing.assert_allclose(result.log_prob - prior.log_prob, difference, rtol=0, atol=1e-12)


def test_probes_are_unbiased_and_their_spread_is_their_error():
    schedule, min_t = PATHS["vp"]
    at, x = noisy_data(schedule, min_t, jnp.float32, 400)
    result = solve(VP, x, min_t, 1e-4, trace="rademacher", probes=4)
    assert result.volume.shape == (400, 4)
    error = np.asarray(result.log_prob - oracles.log_density(DATA, at, x), float)
    assert abs(error.mean()) < 3 * variational.standard_error(error)
    spread = np.asarray(result.volume, float).std(1, ddof=1)
    assert np.sqrt((spread**2).mean() / 4) == pytest.approx(error.std(), rel=0.2)


def test_probes_have_the_variance_of_hutchinsons_estimator(x64):
    keys = jax.random.split(jax.random.key(0), 5000)
    matrix = np.array([[1.0, 0.2], [0.2, 0.5]])
    variances = {"rademacher": 2 * (2 * 0.2**2), "gaussian": 2 * (1 + 0.25 + 2 * 0.2**2)}
    for name, variance in variances.items():
        probes = np.asarray(ode_likelihood.PROBES[name](keys, (2,), 1, jnp.float64))[0]
        result = np.einsum("ni,ij,nj->n", probes, matrix, probes)
        assert abs(result.mean() - 1.5) < 3 * variational.standard_error(result)
        squares = (result - 1.5) ** 2
        assert abs(squares.mean() - variance) < 5 * variational.standard_error(squares) + 1e-12


def test_terminal_log_densities(x64):
    at = Level(jnp.ones(()), jnp.log(0.6), jnp.log(0.8))
    x = jnp.array([[0.5, -1.0]])
    for name, std in (("prior", 1.0), ("noise", 0.8)):
        expected = -0.5 * (1.25 / std**2) - 2 * math.log(std) - math.log(2 * math.pi)
        assert float(ode_likelihood.TERMINAL_LOG_DENSITIES[name](at, x)[0]) == pytest.approx(expected, rel=1e-12)


def test_trajectory_that_does_not_reach_the_end_is_not_ok():
    schedule, min_t = PATHS["vp"]
    _, x = noisy_data(schedule, min_t, jnp.float32)
    assert not solve(VP, x, min_t, 1e-6, max_calls=50).ok.any()


AT = Level(*map(np.float64, (0.01, math.log(0.98), math.log(0.05))))


def test_uniform_dequantisation_is_exact_for_a_density_flat_over_bins(x64):
    """The result is log2 of the level's probability if the density is constant on each bin."""
    levels, dims = 5, 3
    x0 = jnp.asarray([[-1.0, 0.0, 0.5], [1.0, 1.0, -0.5]])
    mass = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    keys = jax.random.split(jax.random.key(0), 2)
    x, terms = ode_likelihood.uniform_dequantisation(levels, decoders.bins(levels))(AT, keys, x0)
    noise = np.asarray(x / AT.alpha - x0)
    assert np.abs(noise).max() <= 0.25 and np.unique(noise).size == 6
    bins = np.round((np.asarray(x / AT.alpha) + 1) * 2).astype(int)
    log_x = np.log(mass[bins] / 0.5 / float(AT.alpha)).sum(1)  # density of x = alpha (x0 + noise)
    total = -log_x + sum(terms.values())
    expected = -np.log(mass[np.round((np.asarray(x0) + 1) * 2).astype(int)]).sum(1)
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    np.testing.assert_allclose(terms["bins"] / dims / np.log(2), math.log2((levels - 1) / 2), rtol=1e-12)


def test_uniform_dequantisation_without_levels_is_refused():
    with pytest.raises(ValueError, match=r"ode\.dequantisation"):
        ode_likelihood.uniform_dequantisation(0, decoders.density())


def test_all_estimators_equal_the_entropy_of_gaussian_data():
    """x0 ~ N(m, C), its exact denoiser and fine grids: bound, paths and ODE are within 3 standard errors."""
    data, schedule, size = oracles.GAUSSIAN, schedules.linear_logsnr(-12.0, 10.0), 1024
    process, grid = GaussianProcess(), loop.coefficients(GaussianProcess(), schedule, grids.uniform(2000), denoise=True)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * data.covariances[0])[1]
    x0 = jnp.asarray(oracles.draw(data, size, seed=4), jnp.float32)
    keys = jax.random.split(jax.random.key(5), size)
    exact, decode, kernel = oracles.exact(data), decoders.density(), reverse.fixed_small(process)

    def predict(params, x, at, label, keys):
        return exact(x, at)

    step_term = bound.step_term(process, kernel, decode)
    terms = jax.jit(variational.make_terms(predict, process, lambda p: schedule, step_term, grid))(
        None, jax.random.key(6), {"x0": x0, "label": None, "index": jnp.arange(size)}
    )
    path_weights = path_bound.make_path_weights(predict, process, lambda p: schedule, kernel, decode, lambda p: grid)
    at = level(schedule, jnp.zeros(()))
    density = jax.jit(ode_likelihood.make_density(predict, lambda p: schedule, 0.0))

    def by_ode(name):
        x, added = ode_likelihood.DEQUANTISATIONS[name](0, decode)(at, keys, x0)
        return -density(None, keys, x).log_prob + sum(added.values())

    estimators = {
        "vlb": terms.prior + terms.steps.sum(1),
        "multi": jax.jit(path_weights)(None, keys, x0),
        "ode": by_ode("none"),
        "ode, process": by_ode("process"),
    }
    clean = Level(*(jnp.full(size, field) for field in (0.0, 0.0, -jnp.inf)))
    truth = -np.asarray(oracles.log_density(data, clean, x0), float)
    for name, nats in estimators.items():
        nats = np.asarray(nats, float)
        assert abs(nats.mean() - entropy) < 3 * variational.standard_error(nats) < 0.2, name
        gap = nats - truth  # per example, free of the variance between examples
        error = variational.standard_error(gap)
        assert -3 * error < gap.mean() < 0.05 + 3 * error and error < 0.04, name
