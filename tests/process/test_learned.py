"""Learned schedules: initial values, gradients, effect of the parameters, and the schedule of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import learned, schedules
from diffusion_jax.process.base import in_float64
from diffusion_jax.process.gaussian import GaussianProcess

KEY = jax.random.key(0)


def betas_of(schedule, steps):
    log_alpha, _ = in_float64(schedule, np.arange(steps + 1) / steps)
    return -np.expm1(2 * np.diff(log_alpha))


def host(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def test_rates_of_2015():
    """Rates by the public code's formula, with first_beta in place of its 0.001 + 1/T."""
    schedule = schedules.dpm2015(1000, first_beta=0.002)
    betas = betas_of(schedule, 1000)
    np.testing.assert_allclose(betas[[0, 1, 499, 999]], [0.002, 0.001001989, 0.001994998, 0.4999955], rtol=1e-6)
    rates = 1e-6 + (1 - 1e-6 - 1e-5) / np.linspace(1000, 2, 1000)[1:]
    expected = (1 - 0.002) * np.prod(1 - rates)
    assert np.exp(2 * in_float64(schedule, np.ones(1))[0][0]) == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(9.9161e-4, rel=1e-4)  # reported


@pytest.mark.parametrize("bumps", [0, 4])
def test_learned_betas_start_at_the_rates_of_2015_and_move_as_logits(bumps):
    steps = 9
    made = learned.betas(steps, 0.01, bumps)
    params = host(made.init(KEY))
    start = betas_of(made.schedule(params), steps)
    np.testing.assert_allclose(start, betas_of(schedules.dpm2015(steps, 0.01), steps), rtol=1e-12)
    moved = jax.tree.map(lambda leaf: leaf + 1.3, params)  # the basis sums to one: every logit moves by as much
    betas = betas_of(made.schedule(moved), steps)
    assert betas[0] == pytest.approx(0.01, rel=1e-12)
    share, before = ((b[1:] - 1e-6) / (1 - 1.1e-5) for b in (betas, start))
    np.testing.assert_allclose(np.log(share / (1 - share)) - np.log(before / (1 - before)), 1.3, rtol=1e-9)


def test_coefficients_of_learned_betas_can_be_differentiated(x64):
    """The last level has no noise and infinite logarithms: their gradients must not enter."""
    made = learned.betas(5, 0.01)
    params = host(made.init(KEY))

    def total(perturbation):
        grid = GaussianProcess().coefficients(made.schedule({"perturbation": perturbation}), jnp.linspace(1, 0, 6))
        return grid.x0_scale.sum() + grid.x_t_scale.sum() + grid.log_var_large.sum() + grid.log_var_small.sum()

    total = jax.jit(total)
    gradient = jax.grad(total)(jnp.asarray(params["perturbation"]))
    step = 1e-6
    for i in range(4):
        shift = np.eye(4)[i] * step
        slope = (total(params["perturbation"] + shift) - total(params["perturbation"] - shift)) / (2 * step)
        assert float(gradient[i]) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("factory", [learned.gamma, learned.gamma_net])
def test_gamma_keeps_its_ends_and_rises(factory):
    made = factory(-6.0, 4.0)
    t = np.linspace(0, 1, 101)
    for shake in (0.0, 0.5):
        params = host(made.init(KEY))
        params = {
            name: leaf + shake * np.cos(np.arange(leaf.size)).reshape(leaf.shape) for name, leaf in params.items()
        }
        log_alpha, log_sigma = in_float64(made.schedule(params), t)
        np.testing.assert_allclose(np.exp(2 * log_alpha) + np.exp(2 * log_sigma), 1, rtol=1e-12)
        gamma = 2 * (log_sigma - log_alpha)
        assert (np.diff(gamma) > 0).all()
        ends = params["bias"], params["bias"] + abs(params["slope"])
        np.testing.assert_allclose(gamma[[0, -1]], ends, rtol=1e-9)


def test_scalar_gamma_starts_as_the_linear_schedule():
    made = learned.gamma(-6.0, 4.0)
    got = in_float64(made.schedule(host(made.init(KEY))), np.linspace(0, 1, 9))
    expected = in_float64(schedules.linear_logsnr(-6.0, 4.0), np.linspace(0, 1, 9))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_bumps_sum_to_one_and_sit_on_their_centres():
    weights = learned.bump_weights(np.arange(101), 101, 5)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    centre = weights[50] / weights[50, 2]  # at a centre the neighbours are one spacing, one deviation, away
    np.testing.assert_allclose(centre, np.exp([-2, -0.5, 0, -0.5, -2]), rtol=1e-12)
    half = learned.bump_weights(np.arange(101), 101, 5, width=0.5)[50]
    assert half[1] / half[2] == pytest.approx(np.exp(-2))


def test_too_short_chains_are_refused():
    for factory in (schedules.dpm2015, learned.betas):
        with pytest.raises(ValueError, match=r"process\.num_steps"):
            factory(1)
    with pytest.raises(ValueError, match="first_beta"):
        learned.betas(5, 0)


def test_model_schedule_of_a_fixed_schedule_ignores_params():
    fixed = schedules.cosine(10)
    path = learned.ModelSchedule(fixed)
    assert path.fixed is path(None) is path({"schedule": 1}) is fixed
    assert path.init(KEY) is None and path.freeze({"net": {}}) is path


def test_model_schedule_of_a_learned_schedule_reads_its_params():
    made = learned.gamma(-6.0, 4.0)
    path = learned.ModelSchedule(made)
    params = {"net": {}, "schedule": path.init(KEY) | {"bias": jnp.float32(-5.0)}}
    assert path.fixed is None
    t = np.linspace(0, 1, 5)
    frozen = path.freeze(params).fixed
    np.testing.assert_array_equal(in_float64(frozen, t), in_float64(made.schedule(host(params["schedule"])), t))
    np.testing.assert_array_equal(path(params)(jnp.asarray(t)), made.schedule(params["schedule"])(jnp.asarray(t)))
