"""Binomial process: against a chain of two-state matrices, and Bayes' rule by enumeration."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64, level
from diffusion_jax.process.binomial import BinomialProcess

STEPS, RATE = 7, 0.2
PROCESS = BinomialProcess(RATE)
SCHEDULE = schedules.harmonic(STEPS)
TIMES = np.arange(STEPS, -1, -1) / STEPS
BITS = np.array([-1.0, 1.0])


def matrices():
    """Return the forward steps k = 1 … T as matrices [from, to] over (-1, +1), from the paper's rates."""
    out = []
    for k in range(1, STEPS + 1):
        beta = 1 / (STEPS - k + 1)
        out.append((1 - beta) * np.eye(2) + beta * np.array([1 - RATE, RATE]))
    return out


def step_at(i, count):
    steps = in_float64(PROCESS.coefficients, SCHEDULE, TIMES)
    return jax.tree.map(lambda field: np.full(count, field[i]), steps)


def test_marginals_are_powers_of_the_matrices(x64):
    product = np.eye(2)
    noise = np.linspace(-6, 6, 4001)[:, None]  # bits turn from +1 to -1 at the quantile of their probability
    resolution = 12 / 4000 / np.sqrt(2 * np.pi)  # spacing of the noise times the greatest normal density
    corrupt = jax.jit(lambda t, x0: PROCESS.corrupt(level(SCHEDULE, t), x0, noise))
    for k, matrix in enumerate(matrices(), 1):
        product = product @ matrix
        for i, bit in enumerate(BITS):
            x = np.asarray(corrupt(np.full(4001, k / STEPS), np.full((4001, 1), bit)))
            switch = noise[x[:, 0].argmin(), 0]
            assert statistics.NormalDist().cdf(switch) == pytest.approx(product[i, 1], abs=resolution)
    np.testing.assert_allclose(np.exp(2 * in_float64(SCHEDULE, TIMES)[0]), 1 - TIMES, atol=1e-12)


def test_posterior_is_bayes_rule_and_linear_in_x0(x64):
    steps, posterior = matrices(), jax.jit(lambda *args: PROCESS.posterior(*args)[0])
    assert PROCESS.posterior(step_at(0, 1), np.ones((1, 1)), np.ones((1, 1)))[1] is None
    for i in range(STEPS):
        k = STEPS - i
        before = np.linalg.multi_dot([np.eye(2), np.eye(2), *steps[: k - 1]])
        step = step_at(i, 1)
        for a, x0 in enumerate(BITS):
            for b, x_t in enumerate(BITS):
                joint = before[a] * steps[k - 1][:, b]
                if joint.sum() > 0:
                    rate = posterior(step, np.full((1, 1), x0), np.full((1, 1), x_t))
                    assert float(rate[0, 0]) == pytest.approx(joint[1] / joint.sum(), abs=1e-12)
        ends = [posterior(step, np.full((1, 1), x0), np.ones((1, 1))) for x0 in BITS]
        mixed = posterior(step, np.full((1, 1), 0.4), np.ones((1, 1)))  # P(x0 = 1) = 0.7
        np.testing.assert_allclose(mixed, 0.3 * ends[0] + 0.7 * ends[1], rtol=1e-12)


def test_kl_entropies_and_prior_are_the_closed_forms(x64):
    p, q = np.array([[0.3, 0.9]]), np.array([[0.25, 0.5]])
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    np.testing.assert_allclose(PROCESS.kl((jnp.asarray(p), None), (jnp.asarray(q), None)), expected, rtol=1e-12)
    certain = (jnp.array([[1.0, 0.0]]), None)
    assert float(PROCESS.kl(certain, certain)[0]) < 1e-15

    def entropy(rate):
        return -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))

    x0 = jnp.array([[1.0, -1.0, -1.0]])
    np.testing.assert_allclose(PROCESS.prior_entropy(SCHEDULE, x0), 3 * entropy(RATE), rtol=1e-12)
    np.testing.assert_allclose(PROCESS.prior_kl(SCHEDULE, x0), 0, atol=1e-12)
    steps, i = matrices(), 3
    k = STEPS - i
    before = np.linalg.multi_dot([np.eye(2), np.eye(2), *steps[: k - 1]])
    entropies = PROCESS.entropies(step_at(i, 1), x0)
    states = [1, 0, 0]  # the index of each bit of x0 in (-1, +1)
    np.testing.assert_allclose(entropies.to, sum(entropy(before[j, 1]) for j in states), rtol=1e-12)
    np.testing.assert_allclose(entropies.at, sum(entropy((before @ steps[k - 1])[j, 1]) for j in states), rtol=1e-12)
    step_entropy = sum(before[j] @ entropy(steps[k - 1][:, 1]) for j in states)
    np.testing.assert_allclose(entropies.step, step_entropy, rtol=1e-12)
    given = sum(
        before[j] @ steps[k - 1][:, b] * entropy((before[j] * steps[k - 1][:, b])[1] / (before[j] @ steps[k - 1][:, b]))
        for j in states
        for b in (0, 1)
    )
    np.testing.assert_allclose(entropies.step + entropies.to - entropies.at, given, rtol=1e-10)  # H(x_s | x_t, x0)


def test_draws_have_their_rate():
    keys = jax.random.split(jax.random.key(0), 4000)
    x = PROCESS.prior(SCHEDULE, keys, (5,))
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert float((x > 0).mean()) == pytest.approx(RATE, abs=4 * (RATE * (1 - RATE) / x.size) ** 0.5)
    median = PROCESS.draw((jnp.array([0.4, 0.6]), None), jnp.zeros(2))
    assert median.tolist() == [-1, 1]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(ValueError, match=r"process\.binomial\.rate"):
        BinomialProcess(rate)
