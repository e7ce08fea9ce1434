"""Drift and diffusion by differentiation: against closed forms, in float64 and at both ends in float32."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64
from diffusion_jax.process.sde import drift_and_diffusion

INNER = np.array([1e-5, 1e-4, 1e-3, 0.01, 0.3, 0.7, 0.99, 0.99999])
ENDS = np.array([0.0, *INNER, 1.0])
STEPS = 50


def vp(t):
    beta = 0.1 + 19.9 * t
    return -beta / 2, beta


def subvp(t):
    beta = 0.1 + 19.9 * t
    return -beta / 2, -beta * np.expm1(-2 * (0.1 * t + 19.9 * t**2 / 2))


def ve(t):
    return 0 * t, 2 * (0.01 * (50 / 0.01) ** t) ** 2 * np.log(50 / 0.01)


def edm(t):
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    root = low + t * (high - low)
    return 0 * t, 2 * root**7 * 7 * root**6 * (high - low)


def linear_logsnr(t):
    rate = 18.3 / (1 + np.exp(13.3 - 18.3 * t))
    return -rate / 2, rate


def chain(betas):
    """Return drift and diffusion of a chain: f = T/2 log(1 - beta_k) within step k and at t = k/T."""

    def rates(t):
        k = np.clip(np.ceil(t * len(betas)).astype(int), 1, len(betas))
        f = 0.5 * len(betas) * np.log1p(-betas[k - 1])
        return f, -2 * f

    return rates


def cosine_betas():
    f = np.cos(np.pi / 2 * (np.arange(STEPS + 1) / STEPS + 0.008) / 1.008) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


CASES = {
    "vp": (schedules.vp(), vp),
    "subvp": (schedules.subvp(), subvp),
    "ve": (schedules.ve(), ve),
    "edm": (schedules.edm(), edm),
    "linear_logsnr": (schedules.linear_logsnr(), linear_logsnr),
    "linear": (schedules.linear(1000), chain(np.linspace(1e-4, 0.02, 1000))),
    "cosine": (schedules.cosine(STEPS), chain(cosine_betas())),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_closed_form(name):
    schedule, expected = CASES[name]
    for got, exact in zip(in_float64(drift_and_diffusion, schedule, ENDS), expected(ENDS), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_at_the_ends(name):
    schedule, expected = CASES[name]
    t = jnp.asarray(ENDS, jnp.float32)
    for got, exact in zip(drift_and_diffusion(schedule, t), expected(ENDS), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, exact, rtol=3e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_level_of_a_chain_has_the_rate_of_the_step_that_ends_there(dtype):
    betas = np.linspace(1e-4, 0.02, 1000)
    t = (np.arange(1, 1001) / 1000).astype(dtype)
    schedule = schedules.linear(1000)
    f = in_float64(drift_and_diffusion, schedule, t)[0] if dtype is np.float64 else drift_and_diffusion(schedule, t)[0]
    np.testing.assert_allclose(f, 500 * np.log1p(-betas), rtol=1e-5 if dtype is np.float32 else 1e-9)
    assert np.unique(np.asarray(f)).size == 1000


def test_a_chain_that_destroys_all_in_its_last_step():
    """alpha² = 1 - t: f = -1/(2 (1 - t)) in the last step, which is linear in alpha²; constant rates before."""
    f, g2 = in_float64(drift_and_diffusion, schedules.harmonic(10), np.array([0.55, 0.95, 0.99]))
    np.testing.assert_allclose(f, [5 * np.log(0.4 / 0.5), -1 / (2 * 0.05), -1 / (2 * 0.01)], rtol=1e-9)
    np.testing.assert_allclose(g2, -2 * f, rtol=1e-9)
