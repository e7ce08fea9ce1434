import numpy as np
import pytest
from scipy.stats import norm

from diffusion_jax.metrics import neighbours, parzen
from diffusion_jax.metrics.parzen_window import SIGMAS, estimate, log_densities

RNG = np.random.default_rng(0)


def brute_force(samples, x, sigma):
    """log of the mean over samples of the product of the densities of the dimensions, [M]."""
    kernels = norm.logpdf(x[:, None], samples[None], sigma).sum(-1)
    return np.log(np.exp(kernels - kernels.max()).mean(1)) + kernels.max()


def test_matches_brute_force(monkeypatch):
    monkeypatch.setattr(neighbours, "AT_ONCE", 28 * 40)  # several tiles, the last one smaller
    samples, validation, test = (RNG.random((count, 3)) for count in (40, 11, 23))
    scores = [brute_force(samples, validation, sigma).mean() for sigma in SIGMAS]
    sigma = SIGMAS[np.argmax(scores)]
    expected = brute_force(samples, test, sigma)
    found = estimate(samples, validation, test)
    assert found.sigma == sigma
    np.testing.assert_allclose(found[:2], (expected.mean(), expected.std(ddof=1) / np.sqrt(23)), rtol=1e-12)
    assert parzen(samples, validation, test) == found[:2]
    every = [brute_force(samples, test, sigma) for sigma in SIGMAS]
    np.testing.assert_allclose(log_densities(samples, test, SIGMAS), every, rtol=1e-11, atol=1e-12)


def test_samples_of_a_gaussian_give_the_gaussian_convolved_with_the_kernel():
    """With N samples the error of the mean density at x has variance (E kernel² - density²) / N; 4 of its std."""
    width, sigma, count = 0.08, SIGMAS[1], 20_000
    samples, x = RNG.normal(0.5, width, (count, 1)), np.linspace(0.3, 0.7, 5)[:, None]
    density = norm.pdf(x[:, 0], 0.5, np.hypot(width, sigma))
    squared_kernel = norm.pdf(x[:, 0], 0.5, np.hypot(width, sigma / np.sqrt(2))) / (2 * sigma * np.sqrt(np.pi))
    error = np.sqrt((squared_kernel - density**2) / count)
    found = np.exp(log_densities(samples, x, SIGMAS[1:2])[0])
    assert (np.abs(found - density) < 4 * error).all()


def test_far_points_do_not_underflow():
    found = log_densities(np.zeros((1, 784)), np.ones((1, 784)), SIGMAS[:1])
    np.testing.assert_allclose(found, norm.logpdf(1, 0, SIGMAS[0]) * 784, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples", np.full((4, 3), 255.0)),
        ("test", np.full((4, 3), np.nan)),
        ("validation", np.zeros((4, 2))),
        ("test", np.zeros((1, 3))),
        ("samples", np.zeros((0, 3))),
        ("test", np.zeros((4, 3, 1))),
    ],
)
def test_bad_arrays_raise_with_their_name(name, value):
    arrays = {key: np.zeros((4, 3)) for key in ("samples", "validation", "test")} | {name: value}
    with pytest.raises(ValueError, match=name) as caught:
        parzen(**arrays)
    assert "\n" not in str(caught.value)
