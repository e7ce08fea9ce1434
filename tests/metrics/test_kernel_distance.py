"""Kernel distance: unbiased against closed forms of Gaussians, equal to a double loop and to torch-fidelity."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from diffusion_jax.metrics.kernel_distance import kernel_distance, squared_mmd

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def third_moment(mean, cov):
    """E x⊗x⊗x of N(mean, cov)."""
    pairs = np.einsum("ij,k->ijk", cov, mean)
    return np.einsum("i,j,k->ijk", mean, mean, mean) + pairs + pairs.transpose(0, 2, 1) + pairs.transpose(2, 1, 0)


def expected_kernel(one, other):
    """E (x·y / F + 1)³ for independent x ~ N(*one), y ~ N(*other): a sum over the moments of x·y."""
    (mean1, cov1), (mean2, cov2) = one, other
    first = mean1 @ mean2
    second = np.sum((cov1 + np.outer(mean1, mean1)) * (cov2 + np.outer(mean2, mean2)))
    third = np.sum(third_moment(mean1, cov1) * third_moment(mean2, cov2))
    f = len(mean1)
    return 1 + 3 * first / f + 3 * second / f**2 + third / f**3


def gaussian(seed, f=3):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((f, f))
    return rng.standard_normal(f), root @ root.T


def draws(law, rng, size):
    return law[0] + rng.standard_normal((size, len(law[0]))) @ np.linalg.cholesky(law[1]).T


def mean_and_error(one, other, sizes, number=1000):
    rng = np.random.default_rng(0)
    values = [squared_mmd(draws(one, rng, sizes[0]), draws(other, rng, sizes[1])) for _ in range(number)]
    return np.mean(values), np.std(values) / np.sqrt(number)


def test_mean_is_zero_between_equal_distributions():
    law = gaussian(1)
    mean, error = mean_and_error(law, law, (6, 9))
    assert abs(mean) < 3 * error
    x = draws(law, np.random.default_rng(0), 1000)  # the bias of pairs of an example with itself:
    assert (np.mean((np.square(x).sum(1) / 3 + 1) ** 3) - expected_kernel(law, law)) / 6 > 10 * error


def test_mean_is_the_closed_form_between_gaussians():
    one, other = gaussian(1), gaussian(2)
    expected = expected_kernel(one, one) + expected_kernel(other, other) - 2 * expected_kernel(one, other)
    mean, error = mean_and_error(one, other, (6, 9))
    assert abs(mean - expected) < 3 * error and expected > 10 * error


def test_equals_a_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 4)), 1 + rng.standard_normal((5, 4))

    def mean_over_pairs(a, b, same):
        pairs = [(np.dot(p, q) / 4 + 1) ** 3 for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return np.mean(pairs)

    expected = mean_over_pairs(x, x, True) + mean_over_pairs(y, y, True) - 2 * mean_over_pairs(x, y, False)
    assert squared_mmd(x, y) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_equals_torch_fidelity():
    samples, real, _ = runpy.run_path(str(GOLDEN / "make_metrics.py"))["draw"]()
    expected = json.loads((GOLDEN / "metrics.json").read_text())["kernel_distance"]
    assert kernel_distance(real, samples) == pytest.approx(expected, rel=1e-9)


def test_blocks_share_no_example_and_use_all():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((11, 4)), rng.standard_normal((9, 4))
    expected = np.mean([squared_mmd(x[:4], y[:3]), squared_mmd(x[4:8], y[3:6]), squared_mmd(x[8:], y[6:])])
    assert kernel_distance(x, y, block=3) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError):
        kernel_distance(x[:1], y)
