"""Time grids: both ends, the spacing that the name promises, and refusals."""

import numpy as np
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64, level
from diffusion_jax.sampling import grids

VP, VE, COSINE = schedules.vp(), schedules.ve(), schedules.cosine(50)


def at(schedule, times):
    return in_float64(lambda t: level(schedule, t), times)


@pytest.mark.parametrize("name", [name for name, grid in grids.GRIDS.items() if not grids.needs_chain(grid)])
@pytest.mark.parametrize(("schedule", "end"), [(VP, 1e-3), (VE, 0.0), (COSINE, 1 / 50)])
def test_both_ends_are_included_and_times_fall(name, schedule, end):
    for steps in (1, 2, 9):
        times = grids.make(grids.GRIDS[name], steps, schedule=schedule, end=end)
        assert times.shape == (steps + 1,) and times[0] == 1 and times[-1] == end and np.all(np.diff(times) < 0)


@pytest.mark.parametrize("name", sorted(set(grids.GRIDS) - {"to_first"}))
def test_a_grid_of_a_chain_ends_at_0_after_a_level_with_noise(name):
    for steps in (1, 2, 9):
        times = grids.make(grids.GRIDS[name], steps, chain_steps=50, schedule=COSINE)
        assert len(times) == steps + 1 and times[-1] == 0 and times[-2] >= 1 / 50 and np.all(np.diff(times) < 0)
        assert times[0] == 1 or name == "strided"


def test_spacing_is_even_in_the_named_variable():
    np.testing.assert_allclose(grids.uniform(4, end=0.2), [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-14)
    np.testing.assert_allclose(np.diff(np.sqrt(grids.quadratic(7, 0.01))), -0.9 / 7, rtol=1e-12)
    # In log sigma/alpha near the ends, time is told apart to 2^-52, and t = 1e-3 to 2e-13 of itself.
    for schedule, end in ((VP, 1e-3), (VE, 0.0), (COSINE, 1 / 50)):
        gaps = np.diff(at(schedule, grids.logsnr(schedule, 9, end)).logsnr)
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)
        ratio = np.exp(-at(schedule, grids.karras(schedule, 9, end, rho=3.0)).logsnr / 2) ** (1 / 3)
        np.testing.assert_allclose(np.diff(ratio), np.diff(ratio)[0], rtol=1e-6)


def test_karras_grid_on_its_own_schedule_is_uniform_in_t():
    times = grids.karras(schedules.edm(), 18)
    np.testing.assert_allclose(times, np.linspace(1, 0, 19), atol=1e-12)
    sigma = np.exp(at(schedules.edm(), times).log_sigma)
    expected = [80, (80 ** (1 / 7) * 17 / 18 + 0.002 ** (1 / 7) / 18) ** 7, 0.002]
    np.testing.assert_allclose(sigma[[0, 1, -1]], expected, rtol=1e-10)


def test_linear_logsnr_is_inverted_exactly():
    schedule = schedules.linear_logsnr(-10.0, 6.0)
    np.testing.assert_allclose(grids.logsnr(schedule, 8), np.linspace(1, 0, 9), atol=1e-12)


def test_a_uniform_grid_of_a_chain_has_levels_of_the_chain():
    np.testing.assert_array_equal(np.round(grids.uniform(3, 10) * 10, 12), [10, 7, 3, 0])
    np.testing.assert_array_equal(grids.uniform(1000, 1000), np.arange(1000, -1, -1) / 1000)
    for steps in (1, 7, 999):
        times = grids.uniform(steps, 1000)
        assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0 and np.all(np.diff(times) < 0)


def test_respaced_grids_are_those_of_the_papers():
    """In the papers' integers, k - 1: 1000 steps to 10 of improved DDPM, and to 50 of DDIM."""
    inclusive = np.round(grids.inclusive(10, 1000) * 1000).astype(int)
    np.testing.assert_array_equal(inclusive[:-1] - 1, np.arange(9, -1, -1) * 111)
    strided = np.round(grids.strided(50, 1000) * 1000).astype(int)
    np.testing.assert_array_equal(strided[:-1] - 1, np.arange(980, -1, -20))
    assert inclusive[-1] == strided[-1] == 0
    np.testing.assert_array_equal(grids.chosen_levels((1, 7, 3), 10) * 10, [7, 3, 1, 0])
    np.testing.assert_array_equal(grids.inclusive(1, 10) * 10, [10, 0])


def test_a_grid_of_a_chain_ends_at_min_t_where_it_is_set():
    """As final_sigmas_type=sigma_min of diffusers: down to the first level, in num_steps steps."""
    np.testing.assert_array_equal(
        np.round(grids.make(grids.uniform, 3, chain_steps=10, end=0.1) * 10, 12), [10, 7, 4, 1]
    )
    for name in ("quadratic", "logsnr", "karras"):
        for steps in (1, 2, 9):
            times = grids.make(grids.GRIDS[name], steps, chain_steps=50, schedule=COSINE, end=0.02)
            assert times.shape == (steps + 1,) and times[0] == 1 and times[-1] == 0.02 and np.all(np.diff(times) < 0)
    sigma = np.exp(-at(COSINE, grids.make(grids.karras, 8, chain_steps=50, schedule=COSINE, end=0.02)).logsnr / 2)
    np.testing.assert_allclose(sigma, np.linspace(sigma[0] ** (1 / 7), sigma[-1] ** (1 / 7), 9) ** 7, rtol=1e-6)
    for levels in ((10, 4), (10, 4, 2)):
        np.testing.assert_array_equal(grids.chosen_levels(levels, 10, 0.2) * 10, [10, 4, 2])


def test_the_grid_to_the_first_level_stops_there():
    np.testing.assert_array_equal(np.round(grids.to_first(5, 5) * 5, 12), [5, 4, 3, 2, 1])
    np.testing.assert_array_equal(np.round(grids.to_first(2, 5) * 5, 12), [5, 3, 1])


def test_a_custom_grid_receives_the_arguments_of_its_signature():
    def own(num_steps, chain_steps=0, power=1.0):
        return np.append(np.linspace(1, 0, num_steps + 1)[:-1] ** power, [0.0] * (1 + chain_steps))

    np.testing.assert_array_equal(grids.make(own, 2, chain_steps=3, schedule=VP, power=2.0), [1, 0.25, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: grids.uniform(0, 10), "sampler.num_steps"),
        (lambda: grids.uniform(11, 10), "sampler.num_steps=11"),
        (lambda: grids.to_first(1, 1), "process.num_steps=1"),
        (lambda: grids.make(grids.strided, 4), "process.num_steps"),
        (lambda: grids.make(grids.logsnr, 4), "sampler.grid='logsnr'"),
        (lambda: grids.logsnr(VP, 4), "sampler.min_t"),
        (lambda: grids.karras(schedules.harmonic(4), 4, 0.25), "sampler.grid='karras'"),
        (lambda: grids.karras(VE, 4, rho=0.0), "sampler.karras.rho=0.0"),
        (lambda: grids.chosen_times((1.0, 0.3, 0.5, 0.0)), r"sampler.times=\(1, 0.3, 0.5, 0\)"),
        (lambda: grids.chosen_times((1.0, 0.5)), "sampler.times"),
        (lambda: grids.chosen_times((0.9, 0.5, 0.1), 0.1), "sampler.times"),
        (lambda: grids.chosen_times((1.0,)), "sampler.times"),
        (lambda: grids.chosen_levels((0, 3), 10), "sampler.levels"),
        (lambda: grids.chosen_levels((11,), 10), "sampler.levels"),
        (lambda: grids.chosen_levels((), 10), "sampler.levels"),
        (lambda: grids.chosen_levels((3, 3), 10), "sampler.levels"),
        (lambda: grids.chosen_levels((3, 1), 10, 0.2), "sampler.levels"),
        (lambda: grids.chosen_levels((2,), 10, 0.2), "sampler.levels"),
        (lambda: grids.uniform(2, 10, 0.15), "sampler.min_t=0.15"),
        (lambda: grids.uniform(10, 10, 0.1), "sampler.num_steps=10"),
        (lambda: grids.make(grids.strided, 4, chain_steps=10, end=0.1), "sampler.min_t=0.1"),
    ],
)
def test_impossible_grids_are_refused_in_one_line(make, key):
    with pytest.raises(ValueError, match=key) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_chosen_times_are_taken_as_they_are():
    np.testing.assert_array_equal(grids.chosen_times((1.0, 0.5, 0.1), 0.1), [1.0, 0.5, 0.1])
