"""Decoders: probabilities that sum to one, comparison with SciPy, far tails, finite gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusion_jax.objective import decoders

WITH_LEVELS = ["bins", "bins_tanh", "softmax"]


def grid(levels):
    return 2 * jnp.arange(levels) / (levels - 1) - 1


@pytest.mark.parametrize("name", WITH_LEVELS)
@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("sigma", [0.003, 0.05, 2.0])
def test_probabilities_sum_to_one(name, levels, sigma, x64):
    mean = jnp.array([-1.4, -1.0, -0.11, 0.3, 0.999, 2.0])[:, None]
    nats = jax.jit(decoders.DECODERS[name](levels))(grid(levels)[None, :], mean, jnp.log(sigma**2))
    floor = 1e-12 * levels if name == "bins_tanh" else 0  # no mass is below 1e-12 there
    np.testing.assert_allclose(jnp.exp(-nats).sum(1), 1, atol=floor + 1e-12, rtol=0)


def test_bins_are_masses_of_the_gaussian(x64):
    levels, mean, sigma = 17, 0.13, 0.2
    x, half = np.asarray(grid(levels)), 1 / 16
    law = stats.norm(mean, sigma)
    upper, lower = law.cdf(x + half), law.cdf(x - half)
    upper[-1], lower[0] = 1, 0
    nats = jax.jit(decoders.bins(levels))(jnp.asarray(x), jnp.asarray(mean), jnp.log(sigma**2))
    middle = slice(3, -3)  # where SciPy's difference of cdfs has digits left
    np.testing.assert_allclose(nats[middle], -np.log(upper - lower)[middle], rtol=1e-10)
    np.testing.assert_allclose(jnp.exp(-nats), upper - lower, atol=1e-15)


def test_bins_are_right_in_both_far_tails(x64):
    """1000 standard deviations away the mass of a bin is that beyond its near edge a: phi(a)/a (1 - 1/a² + 3/a⁴ …)."""
    sigma, half = 1e-3, 1 / 255
    level = grid(256)[128]
    decode = jax.jit(decoders.bins(256))
    for side in (-1, 1):
        mean = level + side * (1.0 + half)
        a = 1.0 / sigma
        expected = 0.5 * a**2 + 0.5 * np.log(2 * np.pi) + np.log(a) - np.log1p(-1 / a**2 + 3 / a**4)
        nats = decode(level, mean, jnp.log(sigma**2))
        assert float(nats) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", [*WITH_LEVELS, "density"])
@pytest.mark.parametrize("sigma", [1e-3, 1e-2, 1.0, 30.0])
def test_float32_agrees_with_float64_and_gradients_are_finite(name, sigma):
    x = grid(256)[jnp.array([0, 1, 100, 128, 254, 255])][:, None]
    mean = jnp.linspace(-1.2, 1.2, 9)[None, :]
    decode = jax.jit(decoders.DECODERS[name](256))

    def total(mean, log_var):
        return decode(x, mean, log_var).sum()

    log_var = jnp.asarray(np.log(sigma**2), jnp.float32)
    gradients = jax.jit(jax.grad(total, (0, 1)))(mean, log_var)
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)
    narrow = decode(x, mean, log_var)
    with jax.enable_x64(True):
        wide = decode(*(jnp.asarray(np.asarray(v), jnp.float64) for v in (x, mean, log_var)))
        # A bin has a share 2/255/sigma of a wide Gaussian, and float32 knows its edges to 1.2e-7.
        atol = 5e-4 + 10 * 1.2e-7 * sigma * 255 / 2
        representable = np.asarray(wide) < (7 if name == "bins_tanh" else np.inf)  # differences of tanhs above 1e-3
        atol = 2e-3 if name == "bins_tanh" else atol
        np.testing.assert_allclose(
            np.asarray(narrow)[representable], np.asarray(wide)[representable], rtol=5e-4, atol=atol
        )


def test_tanh_approximation_is_close_to_the_exact_one(x64):
    """The lower of two levels has the mass Phi(-mean / sigma): at most 1.79e-4 off, at 2.59."""
    mean = jnp.linspace(-5, 5, 10_001)
    exact, approximate = (
        jax.jit(decoders.DECODERS[n](2))(-jnp.ones_like(mean), mean, 0.0) for n in ("bins", "bins_tanh")
    )
    difference = np.abs(np.exp(-exact) - np.exp(-approximate))
    assert difference.max() == pytest.approx(1.789e-4, rel=5e-3)
    assert abs(mean[difference.argmax()]) == pytest.approx(2.592, abs=2e-2)


def test_density_is_the_gaussian_density(x64):
    nats = decoders.density()(jnp.array([0.3]), jnp.array([-0.2]), jnp.log(jnp.array([0.49])))
    np.testing.assert_allclose(nats, -stats.norm(-0.2, 0.7).logpdf(0.3), rtol=1e-12)


@pytest.mark.parametrize("name", WITH_LEVELS)
def test_data_without_levels_are_refused(name):
    with pytest.raises(ValueError, match=r"bound\.decoder"):
        decoders.DECODERS[name](0)
