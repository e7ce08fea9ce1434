"""Importance-weighted bounds: against the terms of the VLB, the exact density, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.likelihood import path_bound, variational
from diffusion_jax.objective import bound, decoders, reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop

PROCESS, STEPS, PATHS, SIZE = GaussianProcess(), 30, 16, 200
SCHEDULES = {"chain": schedules.cosine(STEPS), "ve": schedules.ve(0.05, 20.0)}
DATA = oracles.TWO_MODES


def predict(params, x, at, label, keys):
    return oracles.exact(DATA)(x, at)


@pytest.fixture(scope="module", params=SCHEDULES)
def bounds(request):
    """Return -log w [SIZE, PATHS], the VLB [SIZE, PATHS] over as many draws, and x0."""
    schedule = SCHEDULES[request.param]
    times = grids.uniform(STEPS, STEPS if request.param == "chain" else 0)
    grid = loop.coefficients(PROCESS, schedule, times, denoise=True)
    kernel = reverse.fixed_small(PROCESS)
    x0 = jnp.asarray(oracles.draw(DATA, SIZE), jnp.float32)
    path_weights = path_bound.make_path_weights(
        predict, PROCESS, lambda p: schedule, kernel, decoders.density(), lambda p: grid
    )
    keys = jax.random.split(jax.random.key(1), SIZE * PATHS)
    nats = jax.jit(path_weights)(None, keys, jnp.repeat(x0, PATHS, 0)).reshape(SIZE, PATHS)
    step_term = bound.step_term(PROCESS, kernel, decoders.density())
    terms = jax.jit(variational.make_terms(predict, PROCESS, lambda p: schedule, step_term, grid))
    batch = {"x0": jnp.repeat(x0, PATHS, 0), "label": None, "index": jnp.arange(SIZE * PATHS)}
    vlb = terms(None, jax.random.key(2), batch)
    return np.asarray(nats, float), np.asarray(vlb.prior + vlb.steps.sum(1), float).reshape(SIZE, PATHS), x0


def test_one_path_is_the_vlb(bounds):
    nats, vlb, _ = bounds
    difference = nats.mean(1) - vlb.mean(1)
    assert abs(difference.mean()) < 3 * variational.standard_error(difference)


def test_bound_of_an_example_falls_with_the_number_of_paths(bounds):
    nats, _, _ = bounds
    per_k = {k: path_bound.importance_bound(nats, k) for k in (1, 4, 16)}
    assert np.all(per_k[4] <= per_k[1]) and np.all(per_k[16] <= per_k[4])
    figures = path_bound.summarise(nats, (1, 4, 16), 2)
    assert figures["multi_gain_bits_per_dim_16"] > 3 * figures["multi_gain_bits_per_dim_16_stderr"] > 0
    assert figures["multi_gain_bits_per_dim_16"] > figures["multi_gain_bits_per_dim_4"] > 0
    difference = figures["multi_bits_per_dim_1"] - figures["multi_bits_per_dim_16"]
    assert difference == pytest.approx(figures["multi_gain_bits_per_dim_16"], rel=1e-9)


def test_bound_is_above_the_exact_value_and_tighter_with_more_paths(bounds):
    """16 paths leave less than 0.6 of the gap to -log p(x0) of the data."""
    nats, _, x0 = bounds
    clean = Level(*(jnp.full(SIZE, field) for field in (0.0, 0.0, -jnp.inf)))
    truth = -np.asarray(oracles.log_density(DATA, clean, x0), float)
    gaps = {k: path_bound.importance_bound(nats, k) - truth for k in (1, 16)}
    assert gaps[16].mean() > -3 * variational.standard_error(gaps[16])
    assert gaps[16].mean() < 0.6 * gaps[1].mean()


def test_bound_is_the_log_mean_over_groups():
    nats = np.array([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 1000.0, 1000.0]])
    two = [-np.log(np.exp(-nats[0, :2]).mean()), -np.log(np.exp(-nats[0, 2:]).mean())]
    np.testing.assert_allclose(path_bound.importance_bound(nats, 2), [np.mean(two), 500.0], rtol=1e-12)
    np.testing.assert_allclose(path_bound.importance_bound(nats, 1), nats.mean(1), rtol=1e-12)
    np.testing.assert_allclose(path_bound.importance_bound(nats, 4)[1], np.log(2), rtol=1e-12)
