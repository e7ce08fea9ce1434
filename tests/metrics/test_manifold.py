"""Precision, recall, density and coverage: known values, and the authors' rules in double loops."""

import numpy as np
import pytest

from diffusion_jax.metrics import manifold, neighbours
from diffusion_jax.metrics.manifold import coverage, density, precision, recall


def mixture(modes, size, seed, f=2):
    """Equally many examples of Gaussians of deviation 0.1 at each of the modes 0, 3, 6, … on the first axis."""
    rng = np.random.default_rng(seed)
    x = 0.1 * rng.standard_normal((size, f))
    x[:, 0] += 3 * rng.permutation(np.resize(modes, size))
    return x


def test_of_equal_sets():
    x = mixture(range(8), 200, 0)
    assert precision(x, x) == recall(x, x) == coverage(x, x) == 1


def test_of_disjoint_supports():
    x = mixture(range(8), 200, 0)
    y = x + np.array([0, 50])
    assert precision(x, y) == recall(x, y) == density(x, y) == coverage(x, y) == 0


def test_of_half_of_the_modes():
    real, samples = mixture(range(8), 2000, 0), mixture(range(0, 8, 2), 2000, 1)
    assert precision(real, samples, k=10) == pytest.approx(1, abs=0.02)
    assert recall(real, samples, k=10) == pytest.approx(0.5, abs=0.02)
    assert coverage(real, samples) == pytest.approx(0.5, abs=0.05)


def test_density_and_coverage_of_equal_distributions():
    """Density is 1 on average, coverage 1 - (N-1)…(N-k) / (2N-1)…(2N-k), about 1 - 2^-k.

    Reference: Naeem et al. 2020.
    """
    real, samples = mixture(range(8), 4000, 0), mixture(range(8), 4000, 1)
    assert density(real, samples) == pytest.approx(1, abs=0.05)
    assert coverage(real, samples) == pytest.approx(1 - 2.0**-5, abs=0.02)


def by_loops(real, samples):
    """The authors' rules: an edge belongs to the ball for precision and recall, not for density and coverage."""

    def distance(a, b):
        return np.square(a - b).sum()

    def radii(x, k):
        return [np.sort([distance(a, b) for b in x])[k] for a in x]

    def inside(x, centres, k):
        balls = list(zip(centres, radii(centres, k), strict=True))
        return np.mean([any(distance(a, c) <= r for c, r in balls) for a in x])

    balls = list(zip(real, radii(real, 5), strict=True))
    return {
        "precision": inside(samples, real, 3),
        "recall": inside(real, samples, 3),
        "density": np.mean([sum(distance(a, c) < r for c, r in balls) for a in samples]) / 5,
        "coverage": np.mean([min(distance(a, c) for a in samples) < r for c, r in balls]),
    }


@pytest.mark.parametrize("kind", ["floats", "with copies", "grey levels"])
def test_equal_to_double_loops(kind, monkeypatch):
    """With copies and whole numbers many distances are equal, and some samples stand on the edges of balls."""
    monkeypatch.setattr(neighbours, "AT_ONCE", 500)
    rng = np.random.default_rng(0)
    real, samples = 100 + rng.standard_normal((60, 6)), 100.3 + rng.standard_normal((50, 6))
    if kind == "with copies":
        samples = np.concatenate([samples[:10].repeat(5, axis=0), real[:10]])
    if kind == "grey levels":
        real, samples = (np.round(x).astype(np.uint8) for x in (real, samples))
    expected = by_loops(*(x.astype(np.float64) for x in (real, samples)))
    assert {name: getattr(manifold, name)(real, samples) for name in expected} == expected
    assert 0 < expected["recall"] < 1 and 0 < expected["coverage"] < 1


def test_k_must_be_less_than_the_number_of_examples():
    with pytest.raises(ValueError, match="k=3"):
        precision(np.eye(3), np.eye(3))
