"""Noise schedules: against published tables and closed forms, in float64 and at the ends in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64, level, time_of


def alpha_bar(schedule, t):
    return np.exp(2 * in_float64(level, schedule, np.asarray(t, float)).log_alpha)


def every_schedule(num_steps=100):
    chains = {name: make(num_steps) for name, make in schedules.CHAINS.items()}
    return chains | {name: make() for name, make in schedules.CONTINUOUS.items()}


def test_linear_table_of_ddpm():
    k = np.array([0, 1, 99, 249, 499, 749, 999])
    published = [0.9999, 0.9997800921, 0.8970181457, 0.5240853738, 0.07858724288, 0.003350550439, 4.035829765e-05]
    np.testing.assert_allclose(alpha_bar(schedules.linear(1000), (k + 1) / 1000), published, rtol=1e-9)


def test_cosine_table_of_improved_ddpm():
    a = alpha_bar(schedules.cosine(1000), np.arange(1001) / 1000)
    betas = 1 - a[1:] / a[:-1]
    np.testing.assert_allclose(a[[500, 1000]], [0.4938435904, 2.428766907e-09], rtol=1e-9)
    np.testing.assert_allclose(betas[[0, 998]], [4.128422482e-05, 0.7499993929], rtol=1e-9)
    assert betas.max() == pytest.approx(0.999, abs=1e-12)


def test_harmonic_destroys_the_signal_linearly():
    t = np.arange(41) / 40
    np.testing.assert_allclose(alpha_bar(schedules.harmonic(40), t), 1 - t, atol=1e-15)


def test_rectified_flow_is_a_straight_path_at_shifted_times():
    """With shift s the ratio sigma/alpha is s t/(1 - t), and alpha + sigma = 1 (Esser et al. 2024, section 5.3.2)."""
    t = np.linspace(0, 1, 11)
    for shift in (1.0, 3.0, 0.5):
        found = in_float64(level, schedules.rectified_flow(shift), t)
        np.testing.assert_allclose(np.exp(found.log_alpha) + np.exp(found.log_sigma), 1, rtol=1e-14)
        np.testing.assert_allclose(
            np.exp(found.log_sigma)[:-1] * (1 - t[:-1]), shift * t[:-1] * np.exp(found.log_alpha)[:-1], atol=1e-15
        )
    assert np.isneginf(found.log_alpha[-1]) and np.isneginf(found.log_sigma[0])
    with pytest.raises(ValueError, match=r"schedule\.rectified_flow\.shift"):
        schedules.rectified_flow(0.0)


def test_ends_of_the_sdes():
    one, zero = np.ones(1), np.zeros(1)
    assert alpha_bar(schedules.vp(), one)[0] == pytest.approx(np.exp(-10.05), rel=1e-12)  # 4.31857e-05
    sigma = np.exp(in_float64(level, schedules.subvp(), one).log_sigma[0])
    assert sigma == pytest.approx(1 - np.exp(-10.05), rel=1e-12)  # 0.99995681
    for make, low, high in ((schedules.ve, 0.01, 50.0), (schedules.edm, 0.002, 80.0)):
        ends = [np.exp(in_float64(level, make(), t).log_sigma[0]) for t in (zero, one)]
        np.testing.assert_allclose(ends, [low, high], rtol=1e-12)


def test_levels_of_ncsn():
    log_alpha, log_sigma = in_float64(schedules.geometric(10, 0.01, 1.0), np.arange(11) / 10)
    published = [1, 0.59948, 0.35938, 0.21544, 0.12915, 0.07743, 0.04642, 0.02783, 0.01668, 0.01, 0]
    np.testing.assert_allclose(np.exp(log_sigma)[::-1], published, atol=1e-5)  # a unit of their last digit
    np.testing.assert_allclose(np.exp(log_sigma)[1:], 0.01 * 100 ** (np.arange(10) / 9), rtol=1e-12)
    np.testing.assert_array_equal(log_alpha, 0)
    with pytest.raises(ValueError, match=r"process\.num_steps"):
        schedules.geometric(1)


def test_uniform_grid_of_edm_is_the_grid_of_the_paper():
    sigma = np.exp(in_float64(level, schedules.edm(), np.linspace(1, 0, 18)).log_sigma)
    i, rho = np.arange(18), 7
    expected = (80 ** (1 / rho) + i / 17 * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    np.testing.assert_allclose(sigma, expected, rtol=1e-12)


def test_beta_tables_follow_their_rule():
    def betas(schedule, steps):
        a = alpha_bar(schedule, np.arange(steps + 1) / steps)
        return 1 - a[1:] / a[:-1]

    np.testing.assert_allclose(betas(schedules.const(10), 10), 0.02, rtol=1e-12)
    quad = betas(schedules.quad(10), 10)
    np.testing.assert_allclose(np.diff(np.sqrt(quad)), np.diff(np.sqrt(quad))[0], rtol=1e-9)
    warm = betas(schedules.warmup(100, fraction=0.1), 100)
    np.testing.assert_allclose(warm[:10], np.linspace(1e-4, 0.02, 10), rtol=1e-9)
    np.testing.assert_allclose(warm[10:], 0.02, rtol=1e-9)
    sigmoid = betas(schedules.sigmoid(11), 11)
    assert sigmoid[5] == pytest.approx((1e-4 + 0.02) / 2)


@pytest.mark.parametrize("name", every_schedule())
def test_logsnr_falls_and_variance_is_preserved(name):
    schedule = every_schedule()[name]
    path = in_float64(level, schedule, np.linspace(0, 1, 1001)[1:])
    logsnr = 2 * (path.log_alpha - path.log_sigma)
    assert np.all(np.diff(logsnr) < 0)
    variance = np.exp(2 * path.log_alpha) + np.exp(2 * path.log_sigma)
    if name not in ("ve", "edm", "subvp", "geometric", "rectified_flow"):
        np.testing.assert_allclose(variance, 1, rtol=1e-12)


@pytest.mark.parametrize("name", every_schedule())
def test_float32_agrees_with_float64_at_both_ends(name):
    schedule = every_schedule()[name]
    t = np.array([1e-5, 1e-3, 0.01, 0.5, 0.99, 1.0], np.float32)
    for got, exact in zip(schedule(jnp.asarray(t)), in_float64(schedule, t.astype(float)), strict=True):
        # an absolute error of the logarithm of a scale is a relative error of the scale
        finite = np.isfinite(exact)
        np.testing.assert_allclose(np.asarray(got)[finite], exact[finite], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.isfinite(got), finite)


def test_slope_of_a_chain_is_its_rate(x64):
    steps = 1000
    slope = jax.jvp(lambda t: schedules.linear(steps)(t)[0], (jnp.array(0.5005),), (jnp.ones(()),))[1]
    beta = np.linspace(1e-4, 0.02, steps)[500]
    assert float(slope) == pytest.approx(0.5 * np.log1p(-beta) * steps, rel=1e-9)


@pytest.mark.parametrize("betas", [[0.1, 1.5], [0.0, 0.1], [-0.1], [float("nan")], [], [1.0, 0.5]])
def test_betas_outside_the_unit_interval_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        schedules.chain(np.array(betas))


@pytest.mark.parametrize("name", schedules.CONTINUOUS)
def test_time_of_inverts_the_schedule(name):
    schedule = schedules.CONTINUOUS[name]()
    t = jnp.linspace(0.01, 1, 50)
    log_alpha, log_sigma = schedule(t)
    np.testing.assert_allclose(time_of(schedule, 2 * (log_alpha - log_sigma)), t, atol=1e-5)
    beyond = time_of(schedule, jnp.array([-1e3, 1e3]))
    np.testing.assert_allclose(beyond, [1, 0], atol=1e-6)
