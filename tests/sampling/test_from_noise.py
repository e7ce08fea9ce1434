"""Samplers from pure noise, alpha(1) = 0, on the straight path of rectified flow, with exact denoisers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.objective import reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.base import starting
from diffusion_jax.sampling.registry import SAMPLERS

PROCESS, FLOW = GaussianProcess(), schedules.rectified_flow()
KERNEL = reverse.fixed_small(PROCESS)
EXACT, GAUSSIAN = oracles.exact(oracles.TWO_MODES), oracles.exact(oracles.GAUSSIAN)


def walk(name, count, x, predict=EXACT, schedule=FLOW, **options):
    """x [B,2] at t = 1 after `count` steps of a sampler on a uniform grid."""
    method = starting(SAMPLERS[name](**options), schedule)
    rows = loop.coefficients(PROCESS, schedule, grids.uniform(count), method=method)
    keys = jax.random.split(jax.random.key(1), len(x))
    return np.asarray(
        jax.jit(lambda x: loop.sample(method.step, predict, KERNEL, rows, x, keys, method.init_carry(x))[0])(x)
    )


def noise(number, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(0), (number, 2), dtype)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["ode_euler", "ddim", "dpmpp_1s"])
def test_first_order_steps_are_steps_along_the_velocity(name, shift, x64):
    """x_s = x - (u_t - u_s) v with v = eps - x0 = (x - x0)/u and u = sigma, walked here in NumPy."""
    t = np.linspace(1, 0, 8)
    u, x = shift * t / (1 + (shift - 1) * t), np.asarray(noise(16))
    found = walk(name, 7, jnp.asarray(x), schedule=schedules.rectified_flow(shift))
    for before, after in itertools.pairwise(u):
        with np.errstate(divide="ignore"):
            at = Level(*(jnp.full(16, value) for value in (0.0, np.log1p(-before), np.log(before))))
        v = (x - np.asarray(oracles.denoise(oracles.TWO_MODES, at, x))) / before
        x = x - (before - after) * v
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)


def flow_of_gaussian(z):
    """End of the flow of Gaussian data from noise z [B,2]: mean + C^(1/2) z."""
    variances, axes = np.linalg.eigh(oracles.GAUSSIAN.covariances[0])
    return oracles.GAUSSIAN.mean + (np.asarray(z) @ axes * np.sqrt(variances)) @ axes.T


@pytest.mark.parametrize(("name", "order"), [("ode_euler", 1), ("ode_heun", 2), ("edm", 2), ("unipc", 2)])
def test_order_on_gaussian_data(name, order, x64):
    """The last step, to x0, limits all orders to 2."""
    x = noise(8)
    errors = [np.abs(walk(name, count, x, GAUSSIAN) - flow_of_gaussian(x)).max() for count in (80, 160)]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.15, errors


DRAWN = [
    ("ancestral", {}), ("ddim", {"eta": 0.7}), ("euler_maruyama", {}), ("reverse_diffusion", {}), ("dpmpp_2m_sde", {}),
    ("predictor_corrector", {"predictor": "euler_maruyama", "snr": 0.05, "norms": "expected"}),
    ("edm", {"churn": 20.0}), ("dpmpp_3m", {}), ("unipc", {"order": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), DRAWN)
def test_samples_have_mean_and_covariance_of_the_data(name, options):
    drawn, data = walk(name, 100, noise(2000, jnp.float32), **options).astype(float), oracles.TWO_MODES
    # 5 standard errors, and the error of so many steps
    assert np.all(np.abs(drawn.mean(0) - data.mean) < 5 * np.sqrt(np.diag(data.covariance) / 2000) + 0.03)
    assert np.all(np.abs(np.cov(drawn.T) - data.covariance) < 5 * 1.5 * data.covariance.max() / 2000**0.5 + 0.05)


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion"])
def test_the_first_step_from_noise_is_finite_and_small(name):
    """It has the variance (1/2 - d sigma)² + 1 here; a factor of 2 - alpha_t/alpha_s of x would make it 2."""
    method = starting(SAMPLERS[name](), FLOW)
    rows = loop.coefficients(PROCESS, FLOW, np.linspace(1, 0, 21)[:2], denoise=False, method=method)
    keys = jax.random.split(jax.random.key(1), 4000)
    found, _ = loop.sample(method.step, GAUSSIAN, None, rows, noise(4000, jnp.float32), keys)
    np.testing.assert_allclose(np.var(found, axis=0), 0.45**2 + 1, rtol=5 * (2 / 4000) ** 0.5)


def test_dopri5_solves_the_flow():
    method = SAMPLERS["dopri5"](1e-6, 1e-6)
    rows = loop.coefficients(PROCESS, FLOW, np.linspace(1, 1e-5, 3), denoise=True, method=method)
    x = noise(8, jnp.float32)
    found, _ = jax.jit(lambda x: method.walk(GAUSSIAN, FLOW, rows, x, method.init_carry(x)))(x)
    np.testing.assert_allclose(found, flow_of_gaussian(x), atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_form_in_logarithms_stays_where_signal_is_left(name):
    method = SAMPLERS[name]()
    for schedule in (schedules.vp(), schedules.cosine(10), schedules.edm()):
        assert starting(method, schedule) is method
    assert not starting(method, FLOW).needs_signal
