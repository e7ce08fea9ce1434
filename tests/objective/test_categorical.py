"""Categorical process: the bound against the enumeration of all paths, and masked diffusion against its exact value."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective import losses
from diffusion_jax.objective.bound import kl_term
from diffusion_jax.objective.categorical import StatesNetwork, make_categorical_denoiser, masked_bound
from diffusion_jax.objective.reverse import fixed_small
from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64, level
from diffusion_jax.process.categorical import CategoricalProcess

STEPS, LEVELS, DIMS = 3, 3, 2
SCHEDULE = schedules.harmonic(STEPS)
TIMES = np.arange(STEPS, -1, -1) / STEPS
PROCESSES = [CategoricalProcess(LEVELS, noise) for noise in ("uniform", "absorbing")]


def all_of(states):
    return np.array(list(itertools.product(range(states), repeat=DIMS)))


def table_denoiser(process, steps):
    """Return a denoiser whose logits are a random table of level and x_t, and the table [steps,S,S,D,K]."""
    table = np.random.default_rng(1).normal(size=(steps, process.states, process.states, DIMS, LEVELS))

    def apply(variables, x, conditioning, label, keys):
        index = process.indices(x)
        return jnp.asarray(table)[conditioning.astype(int), index[:, 0], index[:, 1]]

    return make_categorical_denoiser(apply, process, lambda level: jnp.round(level.t * steps) - 1), table


def enumerated_bound(process, table, x0):
    """Return the sum of q(path | x0) log(q(path | x0) / p(path, x0)) over all paths, from matrices alone."""
    noise = np.full(LEVELS, 1 / LEVELS) if not process.masks else np.eye(LEVELS + 1)[-1]
    steps = [np.eye(len(noise)) + (noise - np.eye(len(noise))) / (STEPS - k + 1) for k in range(1, STEPS + 1)]
    before = [np.eye(len(noise))]
    for matrix in steps:
        before.append(before[-1] @ matrix)
    states = all_of(process.states)
    total = 0.0
    for path in itertools.product(states, repeat=STEPS):  # x_1 … x_T
        chain = [x0, *path]
        q = np.prod([steps[k][chain[k][d], chain[k + 1][d]] for k in range(STEPS) for d in range(DIMS)])
        if q == 0:
            continue
        p = np.prod([noise[i] for i in path[-1]])
        for k in range(STEPS, 0, -1):
            now, then = chain[k], chain[k - 1]
            for d in range(DIMS):
                logits = table[k - 1, now[0], now[1], d]
                belief = np.exp(logits) / np.exp(logits).sum()
                if process.masks and now[d] < LEVELS:
                    belief = np.eye(LEVELS)[now[d]]
                seen = before[k][:LEVELS, now[d]]
                bayes = before[k - 1][:LEVELS, then[d]] * steps[k - 1][then[d], now[d]]
                p *= (belief * np.divide(bayes, seen, out=np.zeros(LEVELS), where=seen > 0)).sum()
        total += q * np.log(q / p)
    return total


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.noise)
def test_the_bound_is_that_of_all_paths(process, x64):
    predict, table = table_denoiser(process, STEPS)
    rows = in_float64(process.coefficients, SCHEDULE, TIMES)
    term = kl_term(process, fixed_small(process))
    every = all_of(process.states)
    x_t = process.values(every, float)
    for x0 in ([0, 0], [0, 2], [1, 2]):
        clean = np.broadcast_to(process.values(np.array(x0), float), x_t.shape)
        total = float(process.prior_kl(SCHEDULE, clean)[0])
        for i in range(STEPS):
            step = jax.tree.map(lambda field, i=i: np.full(len(x_t), field[i]), rows)
            marginal = process._noised(2 * step.at.log_alpha, process.one_hot(jnp.asarray(clean)))
            share = np.prod([np.asarray(marginal)[np.arange(len(x_t)), d, every[:, d]] for d in range(DIMS)], axis=0)
            seen = share > 0
            terms = term(step, predict({"net": {}}, x_t, step.at), clean, x_t)
            total += float((share[seen] * np.asarray(terms)[seen]).sum())
        assert total == pytest.approx(enumerated_bound(process, table, np.array(x0)), abs=1e-12)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_masked_bound_is_the_mean_over_all_orders(power, x64):
    process, schedule = PROCESSES[1], schedules.polynomial(power)
    _, table = table_denoiser(process, 1)
    predict, _ = table_denoiser(process, 1)

    def timeless(params, x, at, *others):
        return predict(params, x, at._replace(t=jnp.ones_like(at.t)), *others)

    term = masked_bound(process, lambda params: schedule)
    x0 = np.array([0, 2])
    log_p = jax.nn.log_softmax(jnp.asarray(table[0]))
    mask = LEVELS
    first = [log_p[mask, mask, d, x0[d]] for d in range(DIMS)]
    second = [log_p[x0[0], mask, 1, x0[1]], log_p[mask, x0[1], 0, x0[0]]]
    expected = -(sum(first) + sum(second)) / 2 / DIMS / np.log(2)

    nodes, weights = np.polynomial.legendre.leggauss(12)
    total = 0.0
    for u, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        t = u ** (1 / power)  # u: the share masked, a polynomial of which is integrated
        for masked in itertools.product((False, True), repeat=DIMS):
            x_t = process.values(np.where(masked, mask, x0)[None], float)
            clean = process.values(x0[None], float)
            at = level(schedule, jnp.full(1, t))
            noisy = losses.NoisyBatch(at, clean, clean, x_t, timeless({"net": {}}, x_t, at))
            share = np.prod(np.where(masked, u, 1 - u))
            total += weight * share * float(term({}, noisy)[0]) * u ** (1 / power - 1) / power
    assert total == pytest.approx(float(expected), abs=1e-12)


def test_masked_bound_is_finite_at_both_ends():
    process, schedule = PROCESSES[1], schedules.polynomial()
    predict, _ = table_denoiser(process, 1)
    t, x0 = jnp.array([0.0, 1.0]), process.values(jnp.array([[0, 2], [0, 2]]), jnp.float32)
    at = level(schedule, t)
    x_t = process.corrupt(at, x0, jnp.zeros_like(x0))
    np.testing.assert_array_equal(process.indices(x_t), [[0, 2], [LEVELS, LEVELS]])
    noisy = losses.NoisyBatch(at, x0, x0, x_t, predict({"net": {}}, x_t, at._replace(t=jnp.ones(2))))
    found = masked_bound(process, lambda params: schedule)({}, noisy)
    assert float(found[0]) == 0 and np.isfinite(found).all()


def test_the_network_input_is_one_hot_states():
    process = PROCESSES[1]

    class Net:
        def init(self, key, x, time, label, keys):
            return {"params": {"width": x.shape}}

        def apply(self, variables, x, time, label, keys):
            return jnp.repeat(x.sum(-1, keepdims=True), 2 * LEVELS, -1)

    net = StatesNetwork(Net(), process)
    assert net.init(jax.random.key(0), jnp.zeros((1, 4, 2)), jnp.zeros(1))["params"]["width"] == (1, 4, 2 * 4)
    output = net.apply({}, jnp.zeros((1, 4, 2)), jnp.zeros(1))
    assert output.shape == (1, 4, 2 * LEVELS) and (output == 2).all()
