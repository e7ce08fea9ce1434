"""The likelihood of the probability-flow ODE against densities that are known, and the change to bits of the data."""

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
from diffusion_jax.sampling import loop

DATA, SIZE = oracles.TWO_MODES, 16
PATHS = {
    "vp": (schedules.vp(), 1e-5),
    "subvp": (schedules.subvp(), 1e-5),
    "ve": (schedules.ve(), 0.0),
    "edm": (schedules.edm(), 0.0),
    "chain": (schedules.linear(1000), 1e-3),
}


def predict(params, x, at, label, keys):
    return oracles.exact(DATA)(x, at)


def marginal(at, x):
    """The exact law of x_1."""
    return oracles.log_density(DATA, jax.tree.map(lambda field: jnp.broadcast_to(field, len(x)), at), x)


def noisy_data(schedule, min_t, dtype, number=SIZE):
    at = level(schedule, jnp.full(number, min_t, dtype))
    x0 = jnp.asarray(oracles.draw(DATA, number), dtype)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=x0.shape), dtype)
    return at, at.alpha[:, None] * x0 + at.sigma[:, None] * noise


@functools.partial(jax.jit, static_argnames=("trace", "probes"))
def compiled(index, x, min_t, tolerance, max_calls, prior, trace, probes):
    """The density under one of these schedules, by its number: one compiled program serves all of them."""

    def schedule(index):
        return lambda t: jax.lax.switch(index, [schedule for schedule, _ in PATHS.values()], t)

    def law(at, x):
        return jnp.where(prior, ode_likelihood.TERMINAL_LOG_DENSITIES["prior"](at, x), marginal(at, x))

    keys = jax.random.split(jax.random.key(3), len(x))
    options = {"rtol": tolerance, "atol": tolerance, "max_calls": max_calls}
    return ode_likelihood.make_density(predict, schedule, min_t, **options, terminal=law, trace=trace, probes=probes)(
        index, keys, x
    )


def solve(index, x, min_t, tolerance, max_calls=10_000, prior=False, trace="exact", probes=1):
    return compiled(index, x, min_t, tolerance, max_calls, prior, trace, probes)


VP = 0


@pytest.mark.parametrize("index", range(len(PATHS)), ids=tuple(PATHS))
def test_equals_the_marginal_in_float32(index):
    """With the exact trace and the exact law of x_1, to 1e-4 nats per sample at tolerances of 1e-6."""
    schedule, min_t = list(PATHS.values())[index]
    _, x = noisy_data(schedule, min_t, jnp.float32)
    found = solve(index, x, min_t, 1e-6)
    assert found.ok.all() and found.volume.shape == (SIZE, 1) and found.log_prob.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = oracles.log_density(DATA, level(schedule, jnp.full(SIZE, min_t)), jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(found.log_prob, exact, rtol=0, atol=1e-4)


def test_equals_the_marginal_in_float64(x64):
    """To 1e-7 nats per sample; with the prior as law the difference is log p_1 - log prior at x_1."""
    schedule, min_t = PATHS["vp"]
    at, x = noisy_data(schedule, min_t, jnp.float64)
    found = solve(VP, x, min_t, 1e-9)
    exact = oracles.log_density(DATA, at, x)
    np.testing.assert_allclose(found.log_prob, exact, rtol=0, atol=1e-7)

    prior = solve(VP, x, min_t, 1e-9, prior=True)
    end = level(schedule, jnp.ones(SIZE))
    difference = oracles.log_density(DATA, end, found.x_1) - ode_likelihood.TERMINAL_LOG_DENSITIES["prior"](
        level(schedule, jnp.ones(())), found.x_1
    )
    assert np.abs(difference).max() > 1e-4
    np.testing.assert_allclose(found.log_prob - prior.log_prob, difference, rtol=0, atol=1e-12)


def test_probes_are_unbiased_and_tell_their_error():
    schedule, min_t = PATHS["vp"]
    at, x = noisy_data(schedule, min_t, jnp.float32, 400)
    found = solve(VP, x, min_t, 1e-4, trace="rademacher", probes=4)
    assert found.volume.shape == (400, 4)
    error = np.asarray(found.log_prob - oracles.log_density(DATA, at, x), float)
    assert abs(error.mean()) < 3 * variational.standard_error(error)
    spread = np.asarray(found.volume, float).std(1, ddof=1)
    assert np.sqrt((spread**2).mean() / 4) == pytest.approx(error.std(), rel=0.2)


def test_gaussian_probes_spread_more_than_signs(x64):
    keys = jax.random.split(jax.random.key(0), 5000)
    matrix = np.array([[1.0, 0.2], [0.2, 0.5]])
    variances = {}
    for name in ("rademacher", "gaussian"):
        probes = np.asarray(ode_likelihood.PROBES[name](keys, (2,), 1, jnp.float64))[0]
        found = np.einsum("ni,ij,nj->n", probes, matrix, probes)
        assert abs(found.mean() - 1.5) < 3 * variational.standard_error(found)
        variances[name] = found.var()
    assert variances["rademacher"] == pytest.approx(2 * (2 * 0.2**2), rel=0.1)
    assert variances["gaussian"] == pytest.approx(2 * (1 + 0.25 + 2 * 0.2**2), rel=0.15)


def test_laws():
    at = Level(jnp.ones(()), jnp.log(0.6), jnp.log(0.8))
    x = jnp.array([[0.5, -1.0]])
    for name, std in (("prior", 1.0), ("noise", 0.8)):
        expected = -0.5 * (1.25 / std**2) - 2 * math.log(std) - math.log(2 * math.pi)
        assert float(ode_likelihood.TERMINAL_LOG_DENSITIES[name](at, x)[0]) == pytest.approx(expected, rel=1e-6)


def test_a_point_that_is_not_carried_to_the_end_is_told():
    schedule, min_t = PATHS["vp"]
    _, x = noisy_data(schedule, min_t, jnp.float32)
    assert not solve(VP, x, min_t, 1e-6, max_calls=50).ok.any()


# Bits of the data.

AT = Level(*map(np.float64, (0.01, math.log(0.98), math.log(0.05))))


def test_uniform_dequantisation_of_a_density_that_is_flat_over_bins(x64):
    """Where the density is constant on each bin nothing is lost: log2 of the level's probability, exactly."""
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
    assert ode_likelihood.uniform_dequantisation(256, decoders.bins(256))(AT, keys, x0)[1]["bins"][0] / dims / math.log(
        2
    ) == pytest.approx(6.994, abs=5e-4)


def test_uniform_dequantisation_is_for_grey_levels():
    with pytest.raises(ValueError, match=r"the data have levels=0; use ode.dequantisation=none"):
        ode_likelihood.uniform_dequantisation(0, decoders.density())


def test_all_three_ways_equal_the_entropy_of_gaussian_data():
    """x0 ~ N(m, C) and its exact denoiser, fine grids: bound, paths and ODE agree with the entropy within 3 errors."""
    data, schedule, size = oracles.GAUSSIAN, schedules.linear_logsnr(-12.0, 10.0), 1024
    process, rows = GaussianProcess(), loop.rows(GaussianProcess(), schedule, loop.uniform_times(2000), denoise=True)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * data.covariances[0])[1]
    x0 = jnp.asarray(oracles.draw(data, size, seed=4), jnp.float32)
    keys = jax.random.split(jax.random.key(5), size)
    exact, decode, kernel = oracles.exact(data), decoders.density(), reverse.fixed_small(process)

    def predict(params, x, at, label, keys):
        return exact(x, at)

    step_term = bound.step_term(process, kernel, decode)
    terms = jax.jit(variational.make_terms(predict, process, lambda p: schedule, step_term, rows))(
        None, jax.random.key(6), {"x0": x0, "label": None, "index": jnp.arange(size)}
    )
    weigh = path_bound.make_path_weights(predict, process, lambda p: schedule, kernel, decode, lambda p: rows)
    at = level(schedule, jnp.zeros(()))
    density = jax.jit(ode_likelihood.make_density(predict, lambda p: schedule, 0.0))

    def by_ode(name):
        x, added = ode_likelihood.DEQUANTISATIONS[name](0, decode)(at, keys, x0)
        return -density(None, keys, x).log_prob + sum(added.values())

    ways = {
        "vlb": terms.prior + terms.steps.sum(1),
        "multi": jax.jit(weigh)(None, keys, x0),
        "ode": by_ode("none"),
        "ode, process": by_ode("process"),
    }
    clean = Level(*(jnp.full(size, field) for field in (0.0, 0.0, -jnp.inf)))
    truth = -np.asarray(oracles.log_density(data, clean, x0), float)
    for name, nats in ways.items():
        nats = np.asarray(nats, float)
        assert abs(nats.mean() - entropy) < 3 * variational.standard_error(nats) < 0.2, name
        gap = nats - truth  # example by example, which the draw of the examples does not blur
        error = variational.standard_error(gap)
        assert -3 * error < gap.mean() < 0.05 + 3 * error and error < 0.04, name
