"""Linear inverse problems on Gaussian data, whose posterior and denoiser are known, in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import dawsn

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import expand, level, normal
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, inverse, loop
from diffusion_jax.sampling.registry import SAMPLERS

RNG = np.random.default_rng(0)
DIMS, ROWS, NOISE = 5, 3, 0.4
ROOT = RNG.normal(size=(DIMS, DIMS)) / np.sqrt(DIMS)
COV, MEAN = ROOT @ ROOT.T + 0.1 * np.eye(DIMS), RNG.normal(size=DIMS)
MATRIX, Y = RNG.normal(size=(ROWS, DIMS)), RNG.normal(size=ROWS)
PROCESS = GaussianProcess()
DATA = (MEAN, COV)


def posterior(precision, mean, matrix, y, noise):
    """Mean and covariance of N(mean, precision^-1) given y = matrix x + noise."""
    cov = np.linalg.inv(precision + matrix.T @ matrix / noise**2)
    return cov @ (precision @ mean + matrix.T @ y / noise**2), cov


EXACT = posterior(np.linalg.inv(COV), MEAN, MATRIX, Y, NOISE)


def shrink(cov, at, v, alpha_power):
    """alpha^p C (alpha² C + sigma² I)^-1 v, in the axes of C."""
    variances, axes = np.linalg.eigh(cov)
    alpha, sigma = expand(at.alpha, v), expand(at.sigma, v)
    return (alpha**alpha_power * variances / (alpha**2 * variances + sigma**2) * (v @ axes)) @ axes.T


def model(mean, cov):
    """The exact denoiser of Gaussian data."""

    def predict(params, x, at, label=None, keys=None):
        alpha, sigma = expand(at.alpha, x), expand(at.sigma, x)
        x0 = mean + shrink(cov, at, x - alpha * mean, 1)
        return Prediction(x0, (x - alpha * x0) / sigma, None)

    return predict


def observe(count, matrix=MATRIX, y=Y, noise=NOISE):
    return inverse.Observation(lambda x: matrix @ x, jnp.broadcast_to(jnp.asarray(y), (count, len(y))), noise)


def exact_covariance(at, v):
    """Cov[x0 | x_t] v."""
    return expand(at.sigma, v) ** 2 * shrink(COV, at, v, 0)


METHODS = {
    "mmps": functools.partial(inverse.mmps, ROWS),
    "pigdm": functools.partial(inverse.pigdm, exact_covariance),
}


def guided(method, count, data=DATA, observation=None):
    predict = inverse.condition(model(*data), method, observation or observe(count))
    return lambda x, at: predict(None, x, at)


@pytest.mark.parametrize("name", METHODS)
def test_the_exact_covariance_gives_the_conditional_expectation(name, x64):
    """E[x0 | x_t, y] and x_t = alpha x0 + sigma eps, at levels from t = 0.001 to 1."""
    at = level(schedules.cosine(1000), jnp.array([0.001, 0.2, 0.5, 0.9, 1.0]))
    x = jnp.asarray(RNG.normal(size=(5, DIMS)))
    found = jax.jit(guided(METHODS[name](), 5))(x, at)
    for i in range(5):
        alpha, sigma = float(at.alpha[i]), float(at.sigma[i])
        both = np.concatenate([MATRIX / NOISE, np.eye(DIMS) * alpha / sigma])
        mean, _ = posterior(np.linalg.inv(COV), MEAN, both, np.concatenate([Y / NOISE, x[i] / sigma]), 1.0)
        np.testing.assert_allclose(found.x0[i], mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(expand(at.alpha, x) * found.x0 + expand(at.sigma, x) * found.eps, x, atol=1e-9)


def ends(sampler, method, steps, data=DATA, observation=None):
    """Mean and covariance at the end of a sampler without noise, an affine map: pushed through on a basis."""
    dims = len(data[0])
    schedule, made = schedules.cosine(4000), SAMPLERS[sampler]()
    rows = loop.coefficients(PROCESS, schedule, grids.uniform(steps, 4000), denoise=True, method=made)
    x = jnp.concatenate([jnp.zeros((1, dims)), jnp.eye(dims)])
    denoise = guided(method, dims + 1, data, observation(dims + 1) if observation else None)
    keys = jax.random.split(jax.random.key(0), dims + 1)
    out = jax.jit(lambda x: loop.sample(made.step, denoise, None, rows, x, keys, made.init_carry(x))[0])(x)
    slope = np.asarray(out[1:] - out[:1]).T
    return np.asarray(out[0]), slope @ slope.T


@pytest.mark.parametrize(
    ("sampler", "steps", "name"),
    [("ddim", (500, 4000), "mmps"), ("ddim", (500, 4000), "pigdm"), ("dpmpp_2m", (40, 200), "mmps")],
)
def test_samplers_without_noise_end_in_the_posterior(sampler, steps, name, x64):
    errors = []
    for count in steps:
        mean, cov = ends(sampler, METHODS[name](), count)
        errors.append(max(np.abs(mean - EXACT[0]).max(), np.abs(cov - EXACT[1]).max()))
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 3, errors


def carried(sampler, method, steps, data=DATA, observation=None):
    """Mean and covariance at the end of a sampler with isotropic noise; all steps are probed at once."""
    dims, made = len(data[0]), SAMPLERS[sampler]()
    rows = loop.coefficients(PROCESS, schedules.cosine(steps), grids.uniform(steps, steps), denoise=True, method=made)
    rows = jax.tree.map(jnp.asarray, rows)
    count = len(rows.at.t)
    keys = jnp.stack([jax.random.split(jax.random.key(seed), count) for seed in (1, 2)])
    noise = np.stack([normal(k, (dims,), jnp.float64) for k in keys])
    denoise = guided(method, count, data, observation(count) if observation else None)

    kernel = lambda row, prediction, x: PROCESS.posterior(row, prediction.x0, x)  # noqa: E731
    step = jax.jit(lambda x, keys: made.step(denoise, kernel, rows, x, None, keys)[0])
    zero = step(jnp.zeros((count, dims)), keys[0])
    spread = np.asarray((zero - step(jnp.zeros((count, dims)), keys[1])) / (noise[0] - noise[1]))[:, :1]
    offset = np.asarray(zero) - spread * noise[0]
    slopes = np.stack([step(jnp.broadcast_to(unit, (count, dims)), keys[0]) - zero for unit in jnp.eye(dims)], 2)
    mean, cov = np.zeros(dims), np.eye(dims)
    for a, b, c in zip(slopes, offset, spread[:, 0], strict=True):
        mean, cov = a @ mean + b, a @ cov @ a.T + c**2 * np.eye(dims)
    return mean, cov


def test_ancestral_sampling_ends_in_the_posterior(x64):
    errors = []
    for steps in (500, 4000):
        mean, cov = carried("ancestral", inverse.mmps(ROWS), steps)
        errors.append(max(np.abs(mean - EXACT[0]).max(), np.abs(cov - EXACT[1]).max()))
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 3, errors


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_the_bias_of_dps_in_closed_form(noise, x64):
    """N(0, 1) data, A = 1: dx/dalpha = (y - alpha x)/sigma_y² of the ODE, and its like with noise."""
    data, y = (np.zeros(1), np.eye(1)), 0.8
    alone = functools.partial(observe, matrix=np.eye(1), y=np.array([y]), noise=noise)
    mean, cov = ends("dpmpp_2m", inverse.dps(zeta=0.0), 800, data, alone)
    factor = math.sqrt(0.5) / noise
    np.testing.assert_allclose(cov, math.exp(-1 / noise**2), atol=1e-3)
    np.testing.assert_allclose(mean, y * dawsn(factor) / factor / noise**2, atol=1e-3)
    mean, cov = carried("ancestral", inverse.dps(zeta=0.0), 4000, data, alone)
    np.testing.assert_allclose(cov, noise**2 / 2 * (1 - math.exp(-2 / noise**2)), atol=1e-3)
    np.testing.assert_allclose(mean, y * (1 - math.exp(-1 / noise**2)), atol=1e-3)
    exact = 1 / (1 + 1 / noise**2)
    assert abs(cov[0, 0] - exact) > 0.05


def ask(operator, x):
    return np.asarray(jax.jit(jax.vmap(operator))(jnp.asarray(x)))


def test_built_in_operators_equal_their_numpy_versions(x64):
    x = RNG.normal(size=(2, 4, 6, 3))
    blocks = x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(ask(inverse.superres(x.shape[1:]).apply, x), blocks, atol=1e-12)
    np.testing.assert_allclose(ask(inverse.grey(x.shape[1:]).apply, x), x.mean(-1, keepdims=True), atol=1e-12)
    np.testing.assert_array_equal(ask(inverse.identity(x.shape[1:]).apply, x), x)
    left = ask(inverse.mask(x.shape[1:], "right").apply, x)
    np.testing.assert_array_equal(left, x[:, :, :3].reshape(2, -1))
    flat = ask(inverse.blur(x.shape[1:], 0.7).apply, np.ones_like(x))
    np.testing.assert_allclose(flat, 1, atol=1e-12)
    point = np.zeros((1, 9, 9, 1))
    point[0, 4, 4] = 1
    spread = ask(inverse.blur((9, 9, 1), 0.7).apply, point)[0, :, :, 0]
    np.testing.assert_allclose(spread[4, 5] / spread[4, 4], math.exp(-0.5 / 0.49), rtol=1e-3)


@pytest.mark.parametrize("name", inverse.OPERATORS)
def test_the_pseudo_inverse_and_the_coordinates_give_the_observation(name, x64):
    x = RNG.normal(size=(2, 4, 4, 3))
    operator = inverse.OPERATORS[name](x.shape[1:])
    shape = inverse.observed_shape(operator.apply, x.shape[1:], name)
    y = jnp.asarray(RNG.normal(size=(2, *shape)))
    if operator.degradation is None:
        return
    least = jax.jit(lambda y: inverse.pseudo_inverse(operator.apply, x.shape[1:], y))(y)
    np.testing.assert_allclose(ask(operator.apply, least), y, atol=1e-9)
    known = operator.degradation.rotate(jnp.asarray(x))[:, operator.degradation.mask]
    np.testing.assert_allclose(known, operator.scale * ask(operator.apply, x).reshape(2, -1), atol=1e-12)


@pytest.mark.parametrize(
    "operator",
    [lambda x: x + 1, lambda x: x**2, jnp.sin, jnp.abs, lambda x: (x, x), lambda x: x @ np.ones(7), jnp.argmax,
     lambda x: float(x[0]), lambda x: 0 * x + jnp.nan],
)  # fmt: skip
def test_operators_that_are_not_linear_are_refused(operator):
    with pytest.raises(ValueError, match="--operator=mine") as caught:
        inverse.observed_shape(operator, (3,), "--operator=mine")
    assert "\n" not in str(caught.value)


def test_conjugate_gradients_stop_row_by_row(x64):
    """One row is solved at once, one is 0, one meets a direction without curvature: all stay finite and apart."""
    matrices = jnp.stack([2 * jnp.eye(3), jnp.diag(jnp.array([1.0, 2, 3])), jnp.diag(jnp.array([1.0, 1, -9]))])
    b = jnp.array([[1.0, 2, 3], [0, 0, 0], [1, 1, 1]])

    def product(u):
        return jnp.einsum("bij,bj->bi", matrices, u), u

    found = np.asarray(inverse.conjugate_gradients(product, b, b, 10))
    np.testing.assert_allclose(found, [[0.5, 1, 1.5], [0, 0, 0], [0, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("name", ["dps", "pigdm", "mmps"])
def test_exact_observations_and_levels_without_signal_stay_finite(name):
    """In float32, sigma_y = 0, down to the lowest noise of a grid and up to alpha = 0, where nothing is moved."""
    at = level(schedules.cosine(1000), jnp.array([0.001, 0.3, 1.0, 1.0]))
    at = at._replace(log_alpha=at.log_alpha.at[3].set(-jnp.inf), log_sigma=at.log_sigma.at[3].set(0))
    x = jnp.asarray(RNG.normal(size=(4, DIMS)), jnp.float32)
    mean, matrix, y = (a.astype(np.float32) for a in (MEAN, MATRIX, Y))
    predict = model(mean, COV.astype(np.float32))
    for noise in (0.0, 0.4):
        denoise = inverse.condition(predict, inverse.METHODS[name](), observe(4, matrix, y, noise))
        found = jax.jit(lambda x, denoise=denoise: denoise(None, x, at))(x)
        assert np.isfinite(found.x0).all() and np.isfinite(found.eps).all()
        np.testing.assert_allclose(found.x0[3], mean, rtol=1e-6)
