"""Categorical process: against a chain of matrices, and Bayes' rule by enumeration."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64, level
from diffusion_jax.process.binomial import BinomialProcess
from diffusion_jax.process.categorical import CategoricalProcess

STEPS, LEVELS = 5, 3
SCHEDULE = schedules.harmonic(STEPS)
TIMES = np.arange(STEPS, -1, -1) / STEPS
PROCESSES = [CategoricalProcess(LEVELS, noise) for noise in ("uniform", "absorbing")]
every_noise = pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.noise)


def matrices(process):
    """Return the forward steps k = 1 … T as matrices [from, to] over the states, with the rates of 2015."""
    noise = np.full(LEVELS, 1 / LEVELS) if process.noise == "uniform" else np.eye(LEVELS + 1)[-1]
    return [np.eye(len(noise)) + (noise - np.eye(len(noise))) / (STEPS - k + 1) for k in range(1, STEPS + 1)]


def step_at(process, i, count):
    steps = in_float64(process.coefficients, SCHEDULE, TIMES)
    return jax.tree.map(lambda field: np.full(count, field[i]), steps)


@every_noise
def test_states_and_values_are_inverse(process):
    index = np.arange(process.states)[:, None]
    values = process.values(index, np.float32)
    np.testing.assert_array_equal(process.indices(values), index)
    np.testing.assert_array_equal(values[:LEVELS, 0], [-1, 0, 1])
    np.testing.assert_array_equal(process.one_hot(jnp.asarray(values))[:, 0], np.eye(process.states))


@every_noise
def test_marginals_are_powers_of_the_matrices(process, x64):
    product = np.eye(process.states)
    noise = np.linspace(-8, 8, 40_001)[:, None]
    width = 16 / 40_000 / np.sqrt(2 * np.pi)  # spacing of the noise times the greatest normal density
    for k, matrix in enumerate(matrices(process), 1):
        product = product @ matrix
        for i in range(LEVELS):
            x0 = np.full_like(noise, process.values(np.array(i), float))
            x_t = process.corrupt(level(SCHEDULE, np.full(len(noise), k / STEPS)), x0, noise)
            state = np.asarray(process.indices(x_t))[:, 0]
            ends = [statistics.NormalDist().cdf(noise[state <= j, 0].max(initial=-8)) for j in range(process.states)]
            np.testing.assert_allclose(ends, np.cumsum(product[i]), atol=width)
            assert set(state) == set(np.flatnonzero(product[i] > 1e-15))


@every_noise
def test_posterior_is_bayes_rule_and_linear_in_the_belief(process, x64):
    steps, value = matrices(process), lambda i: np.full((1, 1), process.values(np.array(i), float))
    belief = np.array([0.2, 0.5, 0.3])
    for i in range(STEPS):
        k = STEPS - i
        before = np.linalg.multi_dot([np.eye(process.states)] * 2 + steps[: k - 1])
        for b in range(process.states):
            mixed, weights = np.zeros(process.states), np.zeros(LEVELS)
            for a in range(LEVELS):
                joint = before[a] * steps[k - 1][:, b]
                if joint.sum() > 0:
                    found, none = process.posterior(step_at(process, i, 1), value(a), value(b))
                    assert none is None
                    np.testing.assert_allclose(found[0, 0], joint / joint.sum(), atol=1e-14)
                    mixed += belief[a] * joint / joint.sum()
                    weights[a] = belief[a]
            if not weights.any():
                continue  # at t = 1 all values are masked
            found, _ = process.posterior(step_at(process, i, 1), belief[None, None], value(b))
            np.testing.assert_allclose(found[0, 0], mixed / weights.sum(), atol=1e-14)


def test_two_uniform_levels_are_the_binomial_process(x64):
    bits, levels = BinomialProcess(0.5), CategoricalProcess(2)
    x0, x_t = np.array([[-1.0, -1, 1, 1]]), np.array([[-1.0, 1, -1, 1]])
    for i in range(STEPS):
        rate, _ = bits.posterior(step_at(bits, i, 1), x0, x_t)
        found, _ = levels.posterior(step_at(levels, i, 1), x0, x_t)
        np.testing.assert_allclose(found[..., 1], rate, atol=1e-14)
        ours, theirs = levels.entropies(step_at(levels, i, 1), x0), bits.entropies(step_at(bits, i, 1), x0)
        np.testing.assert_allclose(ours, theirs, atol=1e-14)
    np.testing.assert_allclose(levels.prior_entropy(SCHEDULE, x0), 4 * np.log(2), rtol=1e-14)


@every_noise
def test_kl_and_entropies_are_the_closed_forms(process, x64):
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(process.states), (2, 1, 4))
    np.testing.assert_allclose(
        process.kl((p, None), (jnp.asarray(q), None)), (p * np.log(p / q)).sum((1, 2)), rtol=1e-12
    )
    certain = (jnp.eye(process.states)[None], None)
    assert float(process.kl(certain, certain)[0]) == 0

    def entropy(probabilities):
        probabilities = np.asarray(probabilities)
        return -(probabilities * np.log(np.where(probabilities > 0, probabilities, 1))).sum(-1)

    steps, i = matrices(process), 2
    k = STEPS - i
    before = np.linalg.multi_dot([np.eye(process.states)] * 2 + steps[: k - 1])
    found = process.entropies(step_at(process, i, 1), np.array([[-1.0, 1.0]]))
    states = [0, LEVELS - 1]
    np.testing.assert_allclose(found.to, sum(entropy(before[j]) for j in states), rtol=1e-12)
    np.testing.assert_allclose(found.at, sum(entropy((before @ steps[k - 1])[j]) for j in states), rtol=1e-12)
    np.testing.assert_allclose(found.step, sum(before[j] @ entropy(steps[k - 1]) for j in states), rtol=1e-12)
    np.testing.assert_allclose(process.prior_kl(SCHEDULE, np.array([[-1.0, 1.0]])), 0, atol=1e-14)


@every_noise
def test_draws_have_their_probabilities_and_never_one_of_0(process):
    keys = jax.random.split(jax.random.key(0), 4000)
    states = np.asarray(process.indices(process.prior(SCHEDULE, keys, (5,))))
    if process.masks:
        assert (states == LEVELS).all()
    else:
        share = np.bincount(states.ravel(), minlength=LEVELS) / states.size
        np.testing.assert_allclose(share, 1 / LEVELS, atol=4 * (2 / 9 / states.size) ** 0.5)
    certain = jnp.eye(process.states)
    for extreme in (-9.0, 0.0, 9.0):  # where the float32 distribution function is 0 or 1
        drawn = process.draw((certain, None), jnp.full(process.states, extreme))
        np.testing.assert_array_equal(process.indices(drawn), np.arange(process.states))


@every_noise
def test_lost_probabilities_give_lost_draws(process):
    probabilities = jnp.full((2, process.states), 1 / process.states).at[0, 1].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(process.draw((probabilities, None), jnp.zeros(2))), [True, False])
    bits = BinomialProcess(0.5).draw((jnp.array([jnp.nan, 0.5]), None), jnp.zeros(2))
    np.testing.assert_array_equal(np.isnan(bits), [True, False])


def test_unmasked_values_are_certain():
    process = PROCESSES[1]
    log_probs = jnp.log(jnp.full((1, 2, LEVELS), 1 / LEVELS))
    found = np.exp(process.known(log_probs, process.values(jnp.array([[1, LEVELS]]), np.float32)))
    np.testing.assert_allclose(found[0], [[0, 1, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("options", [{"num_levels": 0}, {"num_levels": 1}, {"num_levels": 4, "noise": "gaussian"}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match="process"):
        CategoricalProcess(**options)
