"""Posterior sampling on Gaussian data, where mean and variance can be carried through the real steps in closed form.

The elements are independent, x0 ~ N(MEAN, VAR), so that the exact posterior given y = x0 + NOISE is known. Every step
is affine in x and in its noise: it is probed at two points and with two noises, all rows of the grid at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import expand, level, normal
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop, posterior
from diffusion_jax.sampling.ddpm import ancestral

PROCESS = GaussianProcess()
STEPS = 1000
MEAN, VAR = np.array([0.0, 0.7, -0.4, 0.3]), np.array([1.0, 0.25, 1.7, 0.5])
Y, NOISE = np.array([0.8, -0.5, 1.1, 2.0]), 0.5
MASK = np.array([True, True, True, False])
EXACT_VAR = np.where(MASK, 1 / (1 / VAR + 1 / NOISE**2), VAR)
EXACT_MEAN = np.where(MASK, EXACT_VAR * (MEAN / VAR + Y / NOISE**2), MEAN)


def observe(batch, y=Y, mask=MASK, noise=NOISE, dtype=None):
    return posterior.Observed(jnp.broadcast_to(jnp.asarray(y, dtype), (batch, len(y))), jnp.asarray(mask), noise)


def model(mean=MEAN, var=VAR):
    """The exact predict and the exact kernel p(x_s | x_t) of independent Gaussians."""

    def predict(x, at):
        alpha, sigma = expand(at.alpha, x), expand(at.sigma, x)
        x0 = mean + alpha * var / (alpha**2 * var + sigma**2) * (x - alpha * mean)
        return Prediction(x0, (x - alpha * x0) / sigma, None)

    def reverse(row, prediction, x):
        kernel_mean, log_var = PROCESS.posterior(row, prediction.x0, x)
        alpha, sigma = expand(row.at.alpha, x), expand(row.at.sigma, x)
        left = sigma**2 * var / (alpha**2 * var + sigma**2)
        noiseless = jnp.isneginf(expand(row.to.log_sigma, x))
        return kernel_mean, jnp.log(jnp.where(noiseless, 0, jnp.exp(log_var)) + expand(row.x0_scale, x) ** 2 * left)

    return predict, reverse


def carried(schedule, rule, observed=observe, steps=STEPS, chain=STEPS, data=(MEAN, VAR)):
    """Mean and variance [D] at the end of the chain, in float64."""
    predict, reverse = model(*data)
    rows = jax.tree.map(jnp.asarray, loop.coefficients(PROCESS, schedule, grids.uniform(steps, chain), denoise=True))
    count = len(rows.at.t)
    keys = jnp.stack([jax.random.split(jax.random.key(seed), count) for seed in (1, 2)])
    dims = len(data[0])
    shape = (count, dims)
    noise = np.stack([normal(k, (dims,), jnp.float64) for k in keys])
    conditioned = posterior.condition(reverse, rule, observed(count))

    @jax.jit
    def step(x, keys):
        return ancestral().step(predict, conditioned, rows, x, None, keys)[0]

    at_0, at_1, other = step(jnp.zeros(shape), keys[0]), step(jnp.ones(shape), keys[0]), step(jnp.zeros(shape), keys[1])
    spread = np.asarray((at_0 - other) / (noise[0] - noise[1]))
    slope, offset = np.asarray(at_1 - at_0), np.asarray(at_0) - spread * noise[0]
    first = jax.tree.map(lambda field: field[:1], rows.at)
    zero, one = (posterior.start(rule, observed(1), first, jnp.full((1, dims), v)) for v in (0.0, 1.0))
    prior = np.asarray(jnp.hypot(first.alpha, first.sigma))
    mean, var = np.asarray(zero)[0], np.asarray(one - zero)[0] ** 2 * prior**2
    for a, b, c in zip(slope, offset, spread, strict=True):
        mean, var = a * mean + b, a**2 * var + c**2
    return mean, var


@pytest.mark.parametrize("name", ["linear", "cosine", "ve"])
def test_noise_aware_is_the_exact_posterior(name, x64):
    """To 1e-3 with 1000 steps: what is left is the noise that the last step leaves out."""
    chain = name in schedules.CHAINS
    schedule = schedules.CHAINS[name](STEPS) if chain else schedules.CONTINUOUS[name]()
    mean, var = carried(schedule, posterior.noise_aware(MEAN, VAR), chain=STEPS if chain else 0)
    np.testing.assert_allclose(mean, EXACT_MEAN, atol=1e-3)
    np.testing.assert_allclose(var, EXACT_VAR, atol=1e-3)


@pytest.mark.parametrize("noise", [0.2, 0.5, 1.0])
def test_constant_tends_to_r_squared_on_standard_normal_data(noise, x64):
    """Not to r: the bias that the docstring tells of. To 1e-3, which is truncation at 1000 steps, in float64."""
    y = np.array([0.8])
    data = np.zeros(1), np.ones(1)
    mean, var = carried(
        schedules.linear(STEPS), posterior.constant(), lambda n: observe(n, y, np.array([True]), noise), data=data
    )
    expected = 1 / (1 + 2 / noise**2)
    np.testing.assert_allclose(var, expected, atol=1e-3)
    np.testing.assert_allclose(mean, expected * 2 * y / noise**2, atol=1e-3)
    assert abs(var[0] - 1 / (1 + 1 / noise**2)) > 0.01


@pytest.mark.parametrize("name", ["constant", "power"])
def test_the_rules_of_2015_follow_an_independent_recursion(name, x64):
    """From the betas alone, each step as a product of precisions, in NumPy."""
    betas = np.linspace(1e-4, 0.02, STEPS)
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])

    def precision(k):  # of r at x_(k/T), on the elements observed
        return np.where(MASK, (1.0 if name == "constant" else 1 - k / STEPS) / NOISE**2, 0)

    mean = precision(STEPS) * Y / (1 + precision(STEPS))
    var = 1 / (1 + precision(STEPS))
    for k in range(STEPS, 0, -1):
        beta, now, prior = betas[k - 1], bar[k - 1], before[k - 1]
        to_x0 = np.sqrt(prior) * beta / (1 - now)  # the posterior mean is to_x0 x0 + to_x_t x_t
        to_x_t = np.sqrt(1 - beta) * (1 - prior) / (1 - now)
        gain = np.sqrt(now) * VAR / (now * VAR + 1 - now)
        left = VAR * (1 - now) / (now * VAR + 1 - now)
        a, b = to_x0 * gain + to_x_t, to_x0 * (MEAN - gain * np.sqrt(now) * MEAN)
        kernel = beta * (1 - prior) / (1 - now) + to_x0**2 * left
        shrink = 1 / (1 + kernel * precision(k - 1))
        mean = shrink * (a * mean + b + kernel * precision(k - 1) * Y)
        var = (shrink * a) ** 2 * var + (shrink * kernel if k > 1 else 0)
    found_mean, found_var = carried(schedules.linear(STEPS), getattr(posterior, name)())
    np.testing.assert_allclose(found_mean, mean, atol=1e-9)
    np.testing.assert_allclose(found_var, var, atol=1e-9)


@pytest.mark.parametrize(("name", "steps"), [("noise_aware", 100), ("constant", 50)])
def test_samples_agree_with_the_closed_form(name, steps):
    """50,000 drawn samples, in float32: mean and variance within 5 standard errors."""
    rule = {"noise_aware": lambda: posterior.noise_aware(MEAN, VAR), "constant": posterior.constant}[name]()
    schedule, n = schedules.cosine(steps), 50_000
    with jax.enable_x64(True):
        mean, var = carried(schedule, rule, steps=steps, chain=steps)
    predict, reverse = model(MEAN.astype(np.float32), VAR.astype(np.float32))
    rows = loop.coefficients(PROCESS, schedule, grids.uniform(steps, steps))
    keys_x, keys = jax.random.split(jax.random.key(0), (2, n))

    @jax.jit
    def draw(keys_x, keys):
        observed = observe(n, dtype=jnp.float32)
        x = PROCESS.prior(schedule, keys_x, MEAN.shape)
        x = posterior.start(rule, observed, level(schedule, jnp.ones(n)), x)
        kernel = posterior.condition(reverse, rule, observed)
        return loop.sample(ancestral().step, predict, kernel, rows, x, keys)[0]

    x = np.asarray(draw(keys_x, keys), np.float64)
    assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(var / n))
    assert np.all(np.abs(x.var(0) - var) < 5 * var * np.sqrt(2 / n))


@pytest.mark.parametrize("name", posterior.RULES)
def test_exact_observations_are_kept(name, x64):
    """Inpainting: at the end the elements observed are y, and the others as if nothing had been observed."""
    rule = posterior.noise_aware(MEAN, VAR) if name == "noise_aware" else getattr(posterior, name)()
    mean, var = carried(schedules.cosine(50), rule, lambda n: observe(n, noise=0.0), steps=50, chain=50)
    np.testing.assert_allclose(mean[MASK], Y[MASK], atol=1e-12)
    np.testing.assert_allclose(var[MASK], 0, atol=1e-12)
    np.testing.assert_allclose(mean[~MASK], MEAN[~MASK], atol=1e-3)
    np.testing.assert_allclose(var[~MASK], VAR[~MASK], atol=5e-3)  # the noise that the last of 50 steps leaves out


def test_the_kernels_of_an_exact_observation(x64):
    """constant pins x_s itself; noise-aware makes the kernel q(x_s | x_t, x0 = y); renoise q(x_s | x0 = y)."""
    schedule, size = schedules.linear(20), 20
    rows = jax.tree.map(jnp.asarray, loop.coefficients(PROCESS, schedule, grids.uniform(20, 20)))
    predict, reverse = model()
    x = 0.3 + jnp.ones((size, 4))
    observed = observe(size, noise=0.0)

    def kernel(rule):
        conditioned = posterior.condition(reverse, rule, observed)
        mean, log_var = jax.jit(lambda x: conditioned(rows, predict(x, rows.at), x))(x)
        return mean[:-1, MASK], jnp.exp(jnp.broadcast_to(log_var, x.shape))[:-1, MASK]

    y = observed.y[:-1, MASK]
    mean, var = kernel(posterior.constant())
    np.testing.assert_allclose(mean, y, atol=1e-12)
    np.testing.assert_array_equal(var, 0)
    wanted, log_var = PROCESS.posterior(rows, observed.y, x)
    mean, var = kernel(posterior.noise_aware(MEAN, VAR))
    np.testing.assert_allclose(mean, wanted[:-1, MASK], rtol=1e-9)
    np.testing.assert_allclose(var, jnp.broadcast_to(jnp.exp(log_var), x.shape)[:-1, MASK], rtol=1e-9)
    mean, var = kernel(posterior.renoise())
    np.testing.assert_allclose(mean, rows.to.alpha[:-1, None] * y, rtol=1e-12)
    np.testing.assert_allclose(var, jnp.broadcast_to(rows.to.sigma[:-1, None] ** 2, y.shape), rtol=1e-12)


def test_resampling_brings_missing_pixels_nearer_to_the_known():
    """Two correlated elements, one of them known: re-noising alone misses the conditional mean by more."""
    steps, n, y, rho = 24, 1000, 1.5, 0.9
    schedule = schedules.cosine(steps)
    rows = loop.coefficients(PROCESS, schedule, grids.uniform(steps, steps))
    observed = posterior.Observed(jnp.full((n, 2), y), jnp.array([True, False]), 0.0)
    keys_x, keys = jax.random.split(jax.random.key(0), (2, n))
    calls = []

    def predict(x, at):
        jax.debug.callback(lambda: calls.append(1))
        total, apart = x.sum(1, keepdims=True) / 2, jnp.diff(x, axis=1) / 2  # independent, of variance 1 +- rho
        alpha, sigma = expand(at.alpha, x), expand(at.sigma, x)
        gains = [alpha * v / (alpha**2 * v + sigma**2) for v in (1 + rho, 1 - rho)]
        return Prediction(gains[0] * total + gains[1] * jnp.array([-1, 1]) * apart, None, None)

    reverse = posterior.condition(
        lambda row, found, x: PROCESS.posterior(row, found.x0, x), posterior.renoise(), observed
    )

    def walk(x, keys, rows, first):
        return loop.sample(ancestral().step, predict, reverse, rows, x, keys, first=first)[0]

    x = PROCESS.prior(schedule, keys_x, (2,))
    plain = jax.jit(lambda x: walk(x, keys, rows, 0))(x)
    once = jax.jit(lambda x: posterior.resample(walk, rows, x, keys, 5, 1))(x)
    np.testing.assert_allclose(once, plain, atol=1e-5)
    calls.clear()
    often = jax.block_until_ready(jax.jit(lambda x: posterior.resample(walk, rows, x, keys, 5, 8))(x))
    jax.effects_barrier()
    assert len(calls) == 4 + 8 * 20
    misses = [abs(float(x[:, 1].mean()) - rho * y) for x in (plain, often)]
    assert misses[1] < 0.5 * misses[0]
