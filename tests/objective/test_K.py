"""Bound K of 2015 in closed form, without random draws: unit Gaussians and independent bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective import bound, decoders, losses, prediction, reverse, targets
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import learned, schedules
from diffusion_jax.process.base import level
from diffusion_jax.process.binomial import BinomialProcess
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop

T = 50


def chain_coefficients(process, schedule, steps=T):
    return loop.coefficients(process, schedule, grids.uniform(steps, steps), denoise=True)


def step_at(grid, i, count):
    return jax.tree.map(lambda field: jnp.full(count, field[i]), grid)


def gauss_hermite(nodes=7):
    """Return x0 [n], noise [n] and weights [n] of two unit Gaussians, exact for terms quadratic in both."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    x0, noise = np.meshgrid(z, z, indexing="ij")
    return jnp.asarray(x0.ravel())[:, None], jnp.asarray(noise.ravel())[:, None], np.outer(w, w).ravel() / w.sum() ** 2


def K_of_unit_gaussians(schedule, target, kernel, transform=None, steps=T):
    """Return K of one dimension in nats, where the network's output is 0 for z and for the head."""
    process = GaussianProcess()
    grid = chain_coefficients(process, schedule, steps)
    x0, noise, weights = gauss_hermite()

    def zero(params, x, conditioning, label, keys):
        return jnp.zeros((len(x), 2))

    predict = prediction.make_denoiser(
        zero, lambda params: schedule, target, lambda at: at.t, True, output_transform=transform
    )
    term = bound.K_term(process, kernel(process))

    def mean_term(step):
        step = jax.tree.map(lambda field: jnp.full(len(x0), field), step)
        x_t = process.corrupt(step.at, x0, noise)
        return weights @ term(step, predict({"net": {}}, x_t, step.at), x0, x_t)

    total = jax.jit(lambda: jax.lax.map(mean_term, jax.tree.map(jnp.asarray, grid)).sum())()
    return float(weights @ bound.K_boundary(process, schedule, grid, x0) - total)


NULL = -0.5 * (1 + np.log(2 * np.pi))
SCHEDULES = {
    "dpm2015": schedules.dpm2015(T, 1e-3),
    "linear": schedules.linear(T, 1e-3, 0.2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_K_of_unit_gaussians_is_the_null_model(name, x64):
    """With the public code's mean, z = 0 and Sigma = beta the reverse process is exact: K = L_null."""
    K = K_of_unit_gaussians(SCHEDULES[name], targets.dpm2015(T), reverse.dpm2015_code)
    assert pytest.approx(NULL, abs=1e-9) == K


def test_K_of_unit_gaussians_with_the_mean_of_the_paper(x64):
    """Mean (x - z)(1 - Sigma) + z at z = 0, Sigma = beta, from the definitions of the chain."""
    schedule = schedules.dpm2015(1000, 0.001 + 1e-3)
    log_alpha, _ = schedule(jnp.arange(1001) / 1000)
    alpha_bar = np.exp(2 * np.asarray(log_alpha))
    expected = NULL
    for k in range(2, 1001):
        beta = 1 - alpha_bar[k] / alpha_bar[k - 1]
        small = beta * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k])
        # the posterior mean given x_t is sqrt(1 - beta) x_t on average, and its variance given x_t is beta - small
        error = (np.sqrt(1 - beta) - (1 - beta)) ** 2 + beta - small
        expected -= 0.5 * (np.log(beta / small) + (small + error) / beta - 1)
    expected += 0.5 * np.log((1 - alpha_bar[-1]) / (1 - alpha_bar[1]))
    # NULL and the entropies of x_T and x_1 given x0 are all of K_boundary.
    K = K_of_unit_gaussians(
        schedule,
        targets.dpm2015(1000),
        reverse.dpm2015_paper,
        targets.dpm2015_paper_output(1000),
        1000,
    )
    assert pytest.approx(expected, abs=1e-9) == K
    assert pytest.approx(-0.765, abs=1e-3) == K - NULL  # a unit of the last digit, reported for the code's rates


@pytest.mark.parametrize("rate", [0.5, 0.2, 0.07])
@pytest.mark.parametrize("stationary", [0.5, 0.2])
def test_K_of_the_exact_reverse_process_of_bits_is_minus_the_entropy_of_x1(rate, stationary, x64):
    process, schedule = BinomialProcess(stationary), schedules.harmonic(T)
    grid = chain_coefficients(process, schedule)
    term = jax.jit(bound.K_term(process, reverse.fixed_small(process)))
    x0, x_t = (jnp.asarray(bits.ravel())[:, None] for bits in np.meshgrid([-1.0, 1.0], [-1.0, 1.0], indexing="ij"))
    p_data = np.where(np.asarray(x0)[:, 0] > 0, rate, 1 - rate)

    def entropy(p):
        return -(p * np.log(p) + (1 - p) * np.log1p(-p))

    K = float(p_data / 2 @ bound.K_boundary(process, schedule, grid, x0))  # every x0 is there twice
    for i in range(T):
        kept = 1 - (T - i) / T
        plus = kept * (np.asarray(x0)[:, 0] > 0) + (1 - kept) * stationary  # q(x_t = +1 | x0)
        joint = p_data * np.where(np.asarray(x_t)[:, 0] > 0, plus, 1 - plus)
        seen = {bit: joint[np.asarray(x_t)[:, 0] == bit] for bit in (-1.0, 1.0)}
        belief = np.array([seen[bit][1] / seen[bit].sum() for bit in np.asarray(x_t)[:, 0]])
        step = step_at(grid, i, 4)
        K -= float(joint @ term(step, Prediction(jnp.asarray(2 * belief - 1)[:, None], None, None), x0, x_t))
    first = (1 - 1 / T) * rate + stationary / T
    assert pytest.approx(-entropy(first), abs=1e-9) == K  # -H(x_0) where the rate is the stationary one


def test_loss_is_minus_K_in_bits_per_dim_and_trains_the_rates(x64):
    """The mean of the loss over the chain is -K, and its gradient in the rates agrees with finite differences."""
    steps, process = 6, GaussianProcess()
    made = learned.betas(steps, 0.01)
    x0, noise, weights = gauss_hermite()
    apply = lambda params, x, conditioning, label, keys: jnp.zeros((len(x), 2))  # noqa: E731
    path = lambda params: made.schedule(params["schedule"])  # noqa: E731
    predict = prediction.make_denoiser(apply, path, targets.dpm2015(steps), lambda at: at.t, True)
    grid = lambda params: loop.traced_coefficients(process, path(params), grids.uniform(steps, steps))  # noqa: E731
    term = losses.K(process, reverse.dpm2015_paper(process), path, grid, steps)

    @jax.jit
    def loss(perturbation, scale=1.0):
        params = {"net": {}, "schedule": {"perturbation": perturbation}}
        total = 0.0
        for k in range(1, steps + 1):
            at = level(path(params), jnp.full(len(x0), k / steps))
            x = scale * x0
            x_t = process.corrupt(at, x, noise)
            total += weights @ term(params, losses.NoisyBatch(at, x, noise, x_t, predict(params, x_t, at)))
        return total / steps

    start = jnp.zeros(steps - 1)
    assert float(loss(start)) == pytest.approx(-NULL / np.log(2), abs=1e-9)  # of unit Gaussians, whatever the rates
    assert float(loss(start + 0.7)) == pytest.approx(-NULL / np.log(2), abs=1e-9)
    gradient = jax.jit(jax.grad(loss))(start, 0.3)
    assert np.abs(gradient).max() > 1e-3
    for i in range(steps - 1):
        shift = jnp.eye(steps - 1)[i] * 1e-6
        slope = (loss(start + shift, 0.3) - loss(start - shift, 0.3)) / 2e-6
        assert float(gradient[i]) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


def test_boundary_terms_are_prior_kl_and_reconstruction(x64):
    """Unit Gaussian data: KL to the prior, and the density of x0 at the first level, by quadrature."""
    process, schedule = GaussianProcess(), schedules.linear_logsnr(-5.0, 4.0)
    x0, noise, weights = gauss_hermite()
    term = losses.boundary_terms(process, lambda params: schedule, decoders.density())
    at = level(schedule, jnp.full(len(x0), 0.5))
    nats = weights @ term({}, losses.NoisyBatch(at, x0, noise, x0, None)) * np.log(2)
    sigma1, sigma0 = 1 / (1 + np.exp(-4.0)), 1 / (1 + np.exp(5.0))
    prior = 0.5 * (sigma1 + (1 - sigma1) - 1 - np.log(sigma1))
    density = 0.5 * (np.log(2 * np.pi * sigma0 / (1 - sigma0)) + 1)
    assert float(nats) == pytest.approx(prior + density, rel=1e-9)
