"""The binomial process against the definitions: a chain of two-state matrices, and Bayes' rule by enumeration."""

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
    """The forward steps k = 1 … T as [from, to] over (-1, +1), written from the paper's rates."""
    out = []
    for k in range(1, STEPS + 1):
        beta = 1 / (STEPS - k + 1)
        out.append((1 - beta) * np.eye(2) + beta * np.array([1 - RATE, RATE]))
    return out


def rows_at(i, count):
    rows = in_float64(PROCESS.coefficients, SCHEDULE, TIMES)
    return jax.tree.map(lambda field: np.full(count, field[i]), rows)


def test_marginals_and_surviving_signal(x64):
    product = np.eye(2)
    noise = np.linspace(-6, 6, 4001)[:, None]  # where it stops giving +1 is the quantile of the rate
    corrupt = jax.jit(lambda t, x0: PROCESS.corrupt(level(SCHEDULE, t), x0, noise))
    for k, matrix in enumerate(matrices(), 1):
        product = product @ matrix
        for i, bit in enumerate(BITS):
            x = np.asarray(corrupt(np.full(4001, k / STEPS), np.full((4001, 1), bit)))
            switch = noise[x[:, 0].argmin(), 0]
            assert statistics.NormalDist().cdf(switch) == pytest.approx(product[i, 1], abs=2e-3)
    np.testing.assert_allclose(np.exp(2 * in_float64(SCHEDULE, TIMES)[0]), 1 - TIMES, atol=1e-12)


def test_posterior_is_bayes_rule_and_linear_in_belief(x64):
    steps, posterior = matrices(), jax.jit(lambda *args: PROCESS.posterior(*args)[0])
    assert PROCESS.posterior(rows_at(0, 1), np.ones((1, 1)), np.ones((1, 1)))[1] is None
    for i in range(STEPS):
        k = STEPS - i
        before = np.linalg.multi_dot([np.eye(2), np.eye(2), *steps[: k - 1]])
        row = rows_at(i, 1)
        for a, x0 in enumerate(BITS):
            for b, x_t in enumerate(BITS):
                joint = before[a] * steps[k - 1][:, b]
                if joint.sum() > 0:
                    rate = posterior(row, np.full((1, 1), x0), np.full((1, 1), x_t))
                    assert float(rate[0, 0]) == pytest.approx(joint[1] / joint.sum(), abs=1e-12)
        ends = [posterior(row, np.full((1, 1), x0), np.ones((1, 1))) for x0 in BITS]
        mixed = posterior(row, np.full((1, 1), 0.4), np.ones((1, 1)))  # P(x0 = 1) = 0.7
        np.testing.assert_allclose(mixed, 0.3 * ends[0] + 0.7 * ends[1], rtol=1e-12)


def test_kl_entropies_and_prior_are_the_textbook_ones(x64):
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
    found = PROCESS.entropies(rows_at(i, 1), x0)
    of = [1, 0, 0]  # the row of each bit of x0
    np.testing.assert_allclose(found.to, sum(entropy(before[j, 1]) for j in of), rtol=1e-12)
    np.testing.assert_allclose(found.at, sum(entropy((before @ steps[k - 1])[j, 1]) for j in of), rtol=1e-12)
    of_step = sum(before[j] @ entropy(steps[k - 1][:, 1]) for j in of)
    np.testing.assert_allclose(found.step, of_step, rtol=1e-12)
    given = sum(
        before[j] @ steps[k - 1][:, b] * entropy((before[j] * steps[k - 1][:, b])[1] / (before[j] @ steps[k - 1][:, b]))
        for j in of
        for b in (0, 1)
    )
    np.testing.assert_allclose(found.step + found.to - found.at, given, rtol=1e-10)  # H(x_s | x_t, x0)


def test_draws_have_their_rate():
    keys = jax.random.split(jax.random.key(0), 4000)
    x = PROCESS.prior(SCHEDULE, keys, (5,))
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert float((x > 0).mean()) == pytest.approx(RATE, abs=4 * (RATE * (1 - RATE) / x.size) ** 0.5)
    likelier = PROCESS.draw((jnp.array([0.4, 0.6]), None), jnp.zeros(2))
    assert likelier.tolist() == [-1, 1]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_rate_has_to_be_a_probability_of_both(rate):
    with pytest.raises(ValueError, match=r"process\.binomial\.rate=.* must lie between 0 and 1"):
        BinomialProcess(rate)
