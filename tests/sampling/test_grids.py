"""Grids of any schedule: both ends, the spacing they are named for, and what has no such grid."""

import numpy as np
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64, level
from diffusion_jax.sampling import grids

VP, VE, COSINE = schedules.vp(), schedules.ve(), schedules.cosine(50)


def at(schedule, times):
    return in_float64(lambda t: level(schedule, t), times)


@pytest.mark.parametrize("name", grids.GRIDS)
@pytest.mark.parametrize(("schedule", "end"), [(VP, 1e-3), (VE, 0.0), (COSINE, 1 / 50)])
def test_both_ends_are_included_and_times_fall(name, schedule, end):
    for steps in (1, 2, 9):
        times = grids.GRIDS[name](schedule, steps, end)
        assert times.shape == (steps + 1,) and times[0] == 1 and times[-1] == end and np.all(np.diff(times) < 0)


def test_spacing_is_what_the_name_says():
    np.testing.assert_allclose(grids.uniform(VP, 4, 0.2), [1, 0.8, 0.6, 0.4, 0.2])
    np.testing.assert_allclose(np.diff(np.sqrt(grids.quadratic(VP, 7, 0.01))), -0.9 / 7, rtol=1e-12)
    for schedule, end in ((VP, 1e-3), (VE, 0.0), (COSINE, 1 / 50)):
        gaps = np.diff(at(schedule, grids.logsnr(schedule, 9, end)).logsnr)
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)
        ratio = np.exp(-at(schedule, grids.karras(schedule, 9, end, rho=3.0)).logsnr / 2) ** (1 / 3)
        np.testing.assert_allclose(np.diff(ratio), np.diff(ratio)[0], rtol=1e-6)


def test_karras_grid_on_its_own_schedule_is_uniform_in_t():
    times = grids.karras(schedules.edm(), 18, 0.0)
    np.testing.assert_allclose(times, np.linspace(1, 0, 19), atol=1e-12)
    sigma = np.asarray(at(schedules.edm(), times).sigma)
    np.testing.assert_allclose(sigma[[0, 1, -1]], [80, (80 ** (1 / 7) * 17 / 18 + 0.002 ** (1 / 7) / 18) ** 7, 0.002])


def test_linear_logsnr_is_inverted_exactly():
    schedule = schedules.linear_logsnr(-10.0, 6.0)
    np.testing.assert_allclose(grids.logsnr(schedule, 8, 0.0), np.linspace(1, 0, 9), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.logsnr(VP, 4, 0.0), "'logsnr': the schedule has no noise left at t = 0, .*; set sampler.min_t"),
        (lambda: grids.karras(schedules.harmonic(4), 4, 0.25), "'karras': nothing of x0 is left at t = 1"),
        (lambda: grids.karras(VE, 4, 0.0, rho=0.0), "sampler.karras.rho=0.0 must be above 0"),
        (lambda: grids.chosen((1.0, 0.3, 0.5, 0.0), 0.0), r"times=\(1, 0.3, 0.5, 0\) .* they must fall at every step"),
        (lambda: grids.chosen((1.0, 0.5), 0.0), "from 1 down to 0; both ends must be among them"),
        (lambda: grids.chosen((0.9, 0.5, 0.1), 0.1), "from 1 down to 0.1; both ends must be among them"),
        (lambda: grids.chosen((1.0,), 0.0), "both ends"),
    ],
)
def test_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_chosen_times_are_taken_as_they_are():
    np.testing.assert_array_equal(grids.chosen((1.0, 0.5, 0.1), 0.1), [1.0, 0.5, 0.1])
