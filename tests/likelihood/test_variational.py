"""Variational bound: sums of rate and distortion, curves, and the histogram baseline."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.likelihood import variational
from diffusion_jax.objective import bound, decoders, reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop

PROCESS, CHAIN, STEPS, SIZE = GaussianProcess(), schedules.cosine(20), 20, 64
GRID = loop.coefficients(PROCESS, CHAIN, grids.uniform(STEPS, STEPS), denoise=True)


def make():
    exact = oracles.exact(oracles.TWO_MODES)
    term = bound.step_term(PROCESS, reverse.fixed_large(PROCESS), decoders.density())
    return variational.make_terms(lambda p, x, at, label, keys: exact(x, at), PROCESS, lambda p: CHAIN, term, GRID)


def batch(size=SIZE):
    x0 = 0.5 * jax.random.normal(jax.random.key(5), (SIZE, 2))
    return {"x0": x0[:size], "label": jnp.full(size, -1), "index": jnp.arange(size)}


@pytest.fixture(scope="module")
def terms():
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(make())(None, jax.random.key(0), batch()))


def test_shapes(terms):
    assert terms.prior.shape == (SIZE,) and terms.steps.shape == terms.mse.shape == (SIZE, STEPS)


def test_noise_of_an_example_does_not_depend_on_its_row(terms, x64):
    some = jax.tree.map(lambda x: x[::-1][:8], batch())
    again = jax.jit(make())(None, jax.random.key(0), some)
    np.testing.assert_allclose(again.steps, terms.steps[::-1][:8], rtol=1e-10)


def test_rate_and_distortion_are_the_bound(terms):
    figures = variational.summarise(terms, 2)
    whole = figures["rate_bits_per_dim"] + figures["distortion_bits_per_dim"]
    assert whole == pytest.approx(figures["bits_per_dim"], rel=1e-12)
    assert figures["nats"] == pytest.approx(figures["bits_per_dim"] * 2 * np.log(2), rel=1e-12)
    per_example = (terms.prior + terms.steps.sum(1)) / (2 * np.log(2))
    assert figures["bits_per_dim"] == pytest.approx(per_example.mean(), rel=1e-12)
    assert figures["bits_per_dim_stderr"] == pytest.approx(per_example.std(ddof=1) / SIZE**0.5, rel=1e-12)


def test_curves_end_at_the_summary(terms):
    figures, curves = variational.summarise(terms, 2), variational.curves(terms, GRID.at.t, 2)
    assert curves["rate_bits_per_dim"][-1] == pytest.approx(figures["rate_bits_per_dim"], rel=1e-12)
    assert curves["rate_bits_per_dim"][0] == pytest.approx(figures["prior_bits_per_dim"], rel=1e-12)
    assert curves["rmse"][-1] == figures["rmse"] and curves["bits_per_dim"][-1] == pytest.approx(
        figures["distortion_bits_per_dim"], rel=1e-12
    )
    assert len(curves["t"]) == STEPS and curves["t"][0] == 1
    assert np.all(np.diff(curves["rate_bits_per_dim"]) > 0) and curves["rmse"][0] > 5 * curves["rmse"][-1]


def test_rmse_is_in_255ths_of_the_range():
    assert variational.rmse(np.full((3, 1), (2 / 255) ** 2))[0] == pytest.approx(1)


def test_histogram_baseline():
    rng = np.random.default_rng(0)
    train, heldout = rng.integers(0, 5, (30, 2, 3)), rng.integers(0, 5, (11, 2, 3))
    expected = [
        -np.log2((np.sum(train[:, i, j] == x[i, j]) + 1) / (30 + 5))
        for x in heldout
        for i in range(2)
        for j in range(3)
    ]
    got = variational.histogram_bits_per_dim([train[:7], train[7:]], [heldout[:4], heldout[4:]], 5)
    assert got == pytest.approx(np.mean(expected), rel=1e-12)
