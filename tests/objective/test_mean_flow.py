"""MeanFlow against the mean velocity of Gaussian data, which has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective import mean_flow
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import expand, level
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop, ode_steps

MEAN, STD = 0.7, 0.4
SCHEDULES = {"straight": schedules.rectified_flow(), "shifted": schedules.rectified_flow(3.0)}


def carried(path, x, t, s, std=STD):
    """The point at s to which the flow of N(MEAN, std²) carries x [B,D] from t, both [B]."""
    at, to = level(path, t), level(path, s)
    scale = jnp.hypot(to.alpha * std, to.sigma) / jnp.hypot(at.alpha * std, at.sigma)
    return expand(to.alpha, x) * MEAN + expand(scale, x) * (x - expand(at.alpha, x) * MEAN)


def mean_velocity(path, x, t, s, std=STD):
    gap = level(path, t).sigma - level(path, s).sigma
    same = gap == 0
    far = (x - carried(path, x, t, jnp.where(same, 0, s), std)) / expand(jnp.where(same, 1, gap), x)
    return jnp.where(expand(same, x), velocity(path, x, t, std), far)


def velocity(path, x, t, std=STD):
    """v of N(MEAN, std²): by x0 = E[x0 | x_t]."""
    at = level(path, t)
    marginal = at.alpha**2 * std**2 + at.sigma**2
    x0 = MEAN + expand(at.alpha * std**2 / marginal, x) * (x - expand(at.alpha, x) * MEAN)
    return (x - x0) / expand(at.sigma, x)


def exact(path, std=STD):
    def predict(params, x, at, label=None, keys=None):
        u = mean_velocity(path, x, at.t, at.t if at.until is None else at.until, std)
        return Prediction(x - expand(at.sigma, x) * u, x + expand(at.alpha, x) * u, None)

    return predict


@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_mean_velocity_satisfies_the_identity(name, x64):
    path, x = SCHEDULES[name], jax.random.normal(jax.random.key(0), (6, 3))
    t, s = jnp.array([0.9, 0.99, 0.5, 0.3, 0.999, 0.7]), jnp.array([0.1, 0.0, 0.4, 0.3, 0.998, 1e-3])
    sigma, rate = jax.jvp(lambda t: level(path, t).sigma, (t,), (jnp.ones(6),))
    u, aim = mean_flow.identity(
        lambda x, t: mean_velocity(path, x, t, s), x, t, sigma - level(path, s).sigma, velocity(path, x, t), rate
    )
    np.testing.assert_allclose(u, aim, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("count", [1, 3])
def test_sampler_is_exact_in_any_number_of_steps(name, count, x64):
    path, x = SCHEDULES[name], jax.random.normal(jax.random.key(0), (6, 3))
    rows = loop.coefficients(GaussianProcess(), path, grids.uniform(count))
    keys = jax.random.split(jax.random.key(1), 6)
    found, _ = loop.sample(ode_steps.mean_flow().step, lambda x, at: exact(path)(None, x, at), None, rows, x, keys)
    np.testing.assert_allclose(found, MEAN + STD * x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_loss_is_zero_at_the_mean_velocity_of_one_point(power, x64):
    """There the velocity of an example is that of the flow. An error of 1 in u that does not depend on x and t is 1."""
    path, count = SCHEDULES["shifted"], 8
    batch = {"x0": jnp.full((count, 3), MEAN), "label": jnp.full(count, -1)}
    t, keys = jnp.linspace(0.05, 1, count), jax.random.split(jax.random.key(0), count)

    def off(by):
        def predict(*args):
            found = exact(path, 0.0)(*args)
            return found._replace(eps=found.eps + by)

        made = mean_flow.mean_flow(predict, GaussianProcess(), lambda params: path, share=0.5, power=power)
        return made(None, batch, t, keys)

    zero, metrics = off(0.0)
    np.testing.assert_allclose(zero, 0, atol=1e-9)
    np.testing.assert_allclose(metrics["mse"], 0, atol=1e-12)
    one, metrics = off(1.0)
    np.testing.assert_allclose(metrics["mse"], 1, rtol=1e-6)
    np.testing.assert_allclose(one, 3 / (3 + 1e-3) ** power, rtol=1e-6)


def test_network_takes_the_length_of_the_interval_as_a_channel():
    class Net:
        def apply(self, variables, x, time, label, keys):
            return x * time[:, None]

    net, x = mean_flow.IntervalNetwork(Net()), jnp.ones((2, 3))
    at = level(SCHEDULES["straight"], jnp.array([0.5, 0.8]))
    condition = mean_flow.interval_conditioning(lambda level: 10 * level.t)
    np.testing.assert_allclose(net.apply({}, x, condition(at))[:, 3], 0)
    np.testing.assert_allclose(
        net.apply({}, x, condition(at._replace(until=jnp.array([0.1, 0.2]))))[:, 3], [2, 4.8], rtol=1e-6
    )
    np.testing.assert_array_equal(net.apply({}, x, at.t), net.apply({}, x, condition(at) / 10))
