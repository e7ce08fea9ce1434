"""Schedules of configs, fixed and learned, and the coefficients of bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_configs import config

from diffusion_jax.experiment import paths, wiring
from diffusion_jax.process import learned, schedules


@pytest.mark.parametrize("name", paths.SCHEDULES)
def test_every_schedule_builds(name):
    changes = {} if name in schedules.CHAINS else {"network__conditioning": "time"}
    if name in ("harmonic", "rectified_flow", "polynomial"):
        changes["prediction__target"] = "v"
    if name in learned.LEARNED:
        changes["loss__name"] = "K"
    c = config(schedule__name=name, **changes)
    params = {"schedule": paths.initial_schedule_params(c, jax.random.key(0))}
    for experiment in (wiring.build(c), wiring.build(c, params)):
        log_alpha, log_sigma = experiment.schedule(params)(jnp.array([0.5]))
        assert np.isfinite(log_alpha).all() and np.isfinite(log_sigma).all()


def test_a_learned_schedule_is_fixed_only_when_it_is_frozen():
    c = config(schedule__name="learned_betas", loss__name="K")
    params = {"schedule": {"perturbation": np.array([0.5, -0.2, 0.1])}}
    experiment, frozen = wiring.build(c), wiring.build(c, params)
    assert experiment.schedule.fixed is None and frozen.schedule.fixed is not None
    rows, traced = frozen.sampler.coefficients(None), experiment.sampler.coefficients(params)
    assert isinstance(rows.x0_scale, np.ndarray) and rows.x0_scale.dtype == np.float64
    np.testing.assert_allclose(traced.x0_scale, rows.x0_scale, rtol=1e-5)
    shift = {"schedule": {"perturbation": np.zeros(3)}}
    assert frozen.sampler.coefficients(shift) is rows
    assert abs(np.asarray(experiment.sampler.coefficients(shift).x0_scale) - rows.x0_scale).max() > 0.01


def test_K_ends_one_step_before_t_0_for_any_noise_at_t_0():
    """A schedule with noise at t = 0 has T rows for K as any other, and its first level is 1/T."""
    for name in ("linear", "linear_logsnr"):
        c = config(schedule__name=name, loss__name="K", process__num_steps=4)
        experiment = wiring.build(c)
        rows = paths.K_coefficients(c, experiment.process, experiment.schedule)(None)
        np.testing.assert_allclose(rows.at.t, [1, 0.75, 0.5, 0.25])
        np.testing.assert_allclose(rows.to.t, [0.75, 0.5, 0.25, 0])
    assert np.isfinite(rows.to.log_sigma).all()


def test_the_bound_of_fewer_steps_needs_a_suitable_variance():
    c = config(prediction__variance="learned_diagonal", loss__name="vlb")
    experiment = wiring.build(c)
    with pytest.raises(ValueError, match=r"prediction\.variance.*bound\.num_steps"):
        paths.chain_coefficients(c, experiment.process, experiment.schedule, 2)
