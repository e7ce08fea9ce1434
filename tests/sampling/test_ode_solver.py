"""The adaptive solver: known solutions, an error per sample, calls as instrumentation counts them, and giving up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.sampling.ode_solver import ERROR, NODES, STAGES, solve_ode

RATES = np.array([-4.0, -0.5, 0.3, 2.0])


def oscillate(x, t):
    """x'' = -x with a rate per sample, in a tree of two leaves."""
    place, speed = x
    return speed * RATES[:, None], -place * RATES[:, None]


def circle(t):
    angle = RATES * t
    return np.cos(angle), -np.sin(angle)


def test_the_pair_is_that_of_dormand_and_prince():
    np.testing.assert_allclose(STAGES.sum(1), NODES, rtol=1e-14)
    fifth, fourth = np.append(STAGES[-1, :6], 0), np.append(STAGES[-1, :6], 0) - ERROR
    nodes = np.append(0, NODES)
    for power in range(5):
        assert fifth @ nodes**power == pytest.approx(1 / (power + 1), rel=1e-12)
    for power in range(4):
        assert fourth @ nodes**power == pytest.approx(1 / (power + 1), rel=1e-12)
    assert abs(fourth @ nodes**4 - 0.2) > 1e-4


@jax.jit
def oscillated(x, t0, t1, tolerance):
    return solve_ode(oscillate, x, t0, t1, tolerance, tolerance, 10_000)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_error_of_every_sample_is_in_proportion_to_the_tolerance(tolerance, x64):
    start = jnp.ones((4, 1)), jnp.zeros((4, 1))
    (place, speed), calls, ok = oscillated(start, jnp.zeros(4), jnp.full(4, 3.0), tolerance)
    assert ok.all() and len(set(np.asarray(calls))) > 1
    for got, exact in zip((place, speed), circle(3.0), strict=True):
        assert np.abs(got[:, 0] - exact).max() < 10 * tolerance


def test_backwards_in_time_and_times_per_sample(x64):
    ends = np.array([3.0, 2.0, 0.0, -1.0])
    start = tuple(jnp.asarray(part)[:, None] for part in circle(ends))
    (place, _), calls, ok = oscillated(start, jnp.asarray(ends), jnp.zeros(4), 1e-9)
    np.testing.assert_allclose(place[:, 0], 1, atol=1e-7)
    assert ok.all() and calls[2] == 2  # nothing to do


def test_a_sample_does_not_depend_on_its_batch():
    """Neither a stiff neighbour nor a failing one changes a byte."""

    def derivative(x, t):
        return jnp.cos(3 * t)[:, None] * x - 30 * jnp.maximum(x - 2, 0) + jnp.where(x > 100, jnp.nan, 0)

    run = jax.jit(lambda x: solve_ode(derivative, x, 0.0, 2.0, 1e-5, 1e-5, 500))
    calm = np.array([[0.1, 0.2], [0.3, -0.4], [0.5, 0.1]], np.float32)
    alone, calls, _ = run(calm)
    wild = calm.copy()
    wild[0], wild[2] = 90.0, 200.0
    beside, more, ok = run(wild)
    np.testing.assert_array_equal(beside[1], alone[1])
    assert more[1] == calls[1] and more[0] > 3 * calls[0]
    assert list(ok) == [True, True, False] and more[2] == 2


def test_calls_are_those_made():
    made = []

    def derivative(x, t):
        jax.debug.callback(lambda: made.append(1))
        return -5 * x * jnp.sin(t)[:, None] ** 2

    _, calls, ok = jax.jit(lambda x: solve_ode(derivative, x, 0.0, 3.0, 1e-6, 1e-6, 1000))(jnp.ones((1, 2)))
    jax.effects_barrier()
    assert ok[0] and int(calls[0]) == len(made) > 20


def test_gives_up_after_the_allowed_calls():
    run = jax.jit(lambda x, most: solve_ode(lambda x, t: -50 * x, x, 0.0, 5.0, 1e-6, 1e-6, most))
    x, calls, ok = run(jnp.ones((2, 1)), 50)
    assert not ok.any() and (calls <= 50).all() and (calls > 44).all() and np.isfinite(x).all()
    assert run(jnp.ones((2, 1)), 5000)[2].all()


def test_gives_up_where_steps_fall_below_rounding():
    """x' = x² reaches infinity at t = 1."""
    _, calls, ok = jax.jit(lambda x: solve_ode(lambda x, t: x**2, x, 0.0, 2.0, 1e-5, 1e-5, 100_000))(jnp.ones((1, 1)))
    assert not ok[0] and calls[0] < 5000
