"""Walks in parts are the whole walk, and what is shared or mixed on the way is what the pictures say it is."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.objective import reverse
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level
from diffusion_jax.process.categorical import CategoricalProcess
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import ddpm, grids, loop, progressive

PROCESS, CHAIN = GaussianProcess(), schedules.cosine(25)
DATA = oracles.TWO_MODES
NO_LABELS = jnp.array([-1, -1])


@pytest.fixture(scope="module")
def sampler():
    coefficients = loop.coefficients(PROCESS, CHAIN, grids.uniform(25, 25))
    exact = oracles.exact(DATA)
    return loop.Sampler(
        process=PROCESS,
        schedule=lambda params: CHAIN,
        denoiser=lambda params, x, level, label=None, keys=None: exact(x, level),
        reverse=reverse.fixed_small(PROCESS),
        method=ddpm.ancestral(),
        coefficients=lambda params: coefficients,
        shape=(2,),
    )


@pytest.mark.parametrize(("steps", "number", "lengths"), [(10, 5, {2}), (25, 10, {2, 3}), (3, 10, {1})])
def test_parts_make_up_the_grid(steps, number, lengths):
    rows = loop.coefficients(PROCESS, schedules.linear(steps), grids.uniform(steps, steps))
    parts = progressive.parts(rows, number)
    assert {len(part.at.t) for part in parts} == lengths and len(parts) == min(number, steps)
    np.testing.assert_array_equal(np.concatenate([part.at.t for part in parts]), rows.at.t)


def test_generation_ends_at_the_sample(sampler):
    seeds = np.arange(3, 9)
    shown = progressive.generation(sampler, None, seeds)
    assert shown.shape == (11, 6, 2)
    np.testing.assert_allclose(shown[-1], sampler.sample(None, jnp.asarray(seeds, jnp.uint32)), atol=1e-6)
    np.testing.assert_allclose(shown[0], np.tile(DATA.mean, (6, 1)), atol=0.05)  # nothing is known of pure noise
    gaps = np.abs(shown[:-1] - shown[-1]).mean((1, 2))
    assert gaps[-1] < 0.3 * gaps[0]


def test_decoding_comes_closer_to_the_example(sampler):
    x0 = jnp.asarray(np.random.default_rng(0).normal(DATA.means[1], 0.1, (64, 2)), jnp.float32)
    shown = progressive.decoding(sampler, PROCESS, None, x0, None, seed=0)
    np.testing.assert_array_equal(shown[-1], x0)
    rmse = np.sqrt(np.mean((shown[:-1] - np.asarray(x0)) ** 2, (1, 2)))
    assert rmse[-1] < 0.5 * rmse[0] and shown.shape == (11, 64, 2)


def test_samples_that_part_later_are_closer(sampler):
    shown = progressive.sharing(sampler, None, seed=1, copies=32)
    spread = shown.std(1).mean(1)
    assert shown.shape == (10, 32, 2) and spread[-1] < 0.5 * spread[0]
    at = loop.coefficients(PROCESS, CHAIN, grids.uniform(25, 25)).at
    assert isinstance(at, Level) and np.abs(shown[0].mean(0) - DATA.mean).max() < 0.5


def test_interpolation_goes_from_one_example_to_the_other(sampler):
    ends = jnp.asarray(DATA.means, jnp.float32)
    shown = progressive.interpolation(sampler, PROCESS, None, ends, NO_LABELS, seed=0, points=5)
    assert shown.shape == (5, 5, 2)
    np.testing.assert_allclose(shown[0], np.linspace(*DATA.means, 5), atol=1e-6)
    lowest = shown[1]  # little noise: the ends are nearly reached
    assert np.abs(lowest[0] - ends[0]).max() < 0.7 and np.abs(lowest[-1] - ends[1]).max() < 0.7


def test_interpolated_points_have_the_label_of_the_nearer_end(sampler):
    def denoise(params, x, level, label=None, keys=None):
        x0 = jnp.broadcast_to(label[:, None].astype(x.dtype), x.shape)
        return Prediction(x0, jnp.zeros_like(x), None)

    ends = jnp.asarray(DATA.means, jnp.float32)
    of_label = dataclasses.replace(sampler, denoiser=denoise)
    shown = progressive.interpolation(of_label, PROCESS, None, ends, jnp.array([7, 9]), seed=0, points=4)
    np.testing.assert_allclose(shown[1:, :, 0], np.tile([7, 7, 9, 9], (4, 1)), atol=1e-5)


def test_levels_are_interpolated_by_taking_each_from_either_end():
    process, chain = CategoricalProcess(5, "absorbing"), schedules.harmonic(4)
    coefficients = loop.coefficients(process, chain, grids.uniform(4, 4))

    def denoise(params, x, level, label=None, keys=None):
        uniform = jnp.full((*x.shape, 5), -np.log(5))
        return Prediction(jnp.zeros_like(x), None, None, process.known(uniform, x))

    sampler = loop.Sampler(
        process=process,
        schedule=lambda params: chain,
        denoiser=denoise,
        reverse=reverse.fixed_small(process),
        method=ddpm.ancestral(process.draw, draws_x0=True),
        coefficients=lambda params: coefficients,
        shape=(400,),
    )
    ends = jnp.stack([jnp.full(400, -1.0), jnp.full(400, 1.0)])
    shown = progressive.interpolation(sampler, process, None, ends, NO_LABELS, seed=0, points=5)
    shares = (shown[0] == 1).mean(1)
    assert set(np.unique(shown[0])) == {-1.0, 1.0} and shares[0] == 0 and shares[-1] == 1
    np.testing.assert_allclose(shares, np.linspace(0, 1, 5), atol=4 * 0.5 / 400**0.5)
    assert set(np.unique(shown)) <= {-1.0, -0.5, 0.0, 0.5, 1.0}  # no mask is left
