"""Fréchet distance against closed forms and other implementations."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from diffusion_jax.metrics.frechet import frechet_distance, frechet_pixels, statistics

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def rotation(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def test_one_dimension():
    """N(a, s²) and N(b, u²): (a - b)² + (s - u)²."""
    distance = frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([-2.0]), np.array([[0.25]]))
    assert distance == pytest.approx(9 + 1.5**2, rel=1e-12)


def test_commuting_covariances():
    """Common eigenvectors: |m1 - m2|² + sum (sqrt(l1) - sqrt(l2))²; a covariance may be singular, or zero."""
    turn = rotation(5)
    mean1, mean2 = np.arange(5.0), np.array([1.0, 0, 0, 2, 0])
    values1, values2 = np.array([4.0, 1, 1e-6, 0, 9]), np.array([1.0, 1, 1, 4, 0])
    expected = np.sum((mean1 - mean2) ** 2) + np.sum((np.sqrt(values1) - np.sqrt(values2)) ** 2)
    cov1, cov2 = (turn * values @ turn.T for values in (values1, values2))
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(mean1, np.zeros((5, 5)), mean2, cov2) == pytest.approx(
        np.sum((mean1 - mean2) ** 2) + values2.sum(), rel=1e-12
    )


def test_covariances_that_do_not_commute():
    """A linear map A x with A symmetric positive is the optimal transport: the distance is E|x - A x|²."""
    turn, other = rotation(4, 1), rotation(4, 2)
    cov1 = turn * np.array([1.0, 2, 3, 4]) @ turn.T
    scale = other * np.array([0.5, 1, 2, 3]) @ other.T
    cov2 = scale @ cov1 @ scale
    assert np.abs(cov1 @ cov2 - cov2 @ cov1).max() > 0.1
    expected = np.trace((np.eye(4) - scale) @ cov1 @ (np.eye(4) - scale))
    zero = np.zeros(4)
    assert frechet_distance(zero, cov1, zero, cov2) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(zero, cov2, zero, cov1) == pytest.approx(expected, rel=1e-12)


def test_distance_of_a_set_to_itself_is_zero_and_never_negative():
    """Fewer examples than pixels, so the covariance is singular; scaled up, so that rounding would show."""
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 1)).astype(np.uint8)
    assert 0 <= frechet_pixels(x, x) < 1e-2  # of a trace of some 2e5
    assert frechet_pixels(x, x[::-1]) >= 0


def test_statistics_are_those_of_numpy():
    x = np.random.default_rng(0).integers(0, 17, (50, 3)).astype(np.uint8)
    mean, cov = statistics(x)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)
    with pytest.raises(ValueError):
        statistics(x[:1])


def test_distance_of_shifted_pixels_is_the_shift():
    x = np.random.default_rng(0).integers(0, 200, (300, 2, 2, 1)).astype(np.uint8)
    assert frechet_pixels(x, x + 3) == pytest.approx(4 * 9, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_counted(bad):
    x = np.zeros((5, 3))
    x[1, 2] = x[3] = bad
    with pytest.raises(ValueError, match="2 of 5"):
        statistics(x)


@pytest.mark.parametrize(("dims", "examples"), [(2, 50), (64, 500), (64, 20), (300, 900), (2048, 100)])
def test_features_whose_covariances_commute(dims, examples):
    """x = U s1 V^T and y = U s2 V^T, columns of U orthonormal and of mean 0: |m1 - m2|² + sum (s1 - s2)² / (N - 1).

    Also with fewer examples than dimensions, where the distance is a hundredth of the traces.
    """
    rng, rank = np.random.default_rng(dims), min(dims, examples - 1)
    u = np.linalg.qr(rng.standard_normal((examples, rank)) - rng.standard_normal((1, rank)))[0]
    u = np.linalg.qr(u - u.mean(0))[0]
    v = np.linalg.qr(rng.standard_normal((dims, rank)))[0]
    s1 = np.exp(rng.uniform(-3, 1, rank))
    s2 = s1 * np.exp(rng.uniform(-0.1, 0.1, rank))
    shift = 1e-3 * rng.standard_normal(dims)
    distance = frechet_distance(*statistics(u * s1 @ v.T), *statistics(u * s2 @ v.T + shift))
    assert distance == pytest.approx(np.sum(shift**2) + np.sum((s1 - s2) ** 2) / (examples - 1), rel=1e-6)


def test_equals_other_implementations():
    samples, real, _ = runpy.run_path(str(GOLDEN / "make_metrics.py"))["draw"]()
    expected = json.loads((GOLDEN / "metrics.json").read_text())
    distance = frechet_distance(*statistics(real), *statistics(samples))
    assert distance == pytest.approx(expected["frechet_pytorch_fid"], rel=1e-6)
    assert distance == pytest.approx(expected["frechet_torch_fidelity"], rel=1e-6)
