"""Nearest neighbours against a double loop, and the memorisation of copies, new samples and noise."""

import numpy as np
import pytest

from diffusion_jax.metrics import neighbours


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(neighbours, "AT_ONCE", 500)


def test_equals_a_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)), rng.standard_normal((40, 5)).repeat(2, axis=0)
    distances, places = neighbours.nearest(x, y, 3)
    for i in range(30):
        loop = [np.square(x[i] - y[j]).sum() for j in range(80)]
        np.testing.assert_array_equal(distances[i], np.sort(loop)[:3])
        np.testing.assert_array_equal(distances[i], [loop[j] for j in places[i]])
        assert len(set(places[i])) == 3
    with pytest.raises(ValueError, match="k=81"):
        neighbours.nearest(x, y, 81)


def test_copies_are_at_distance_zero_however_large_the_features():
    x = 1e3 + np.random.default_rng(0).standard_normal((20, 64))
    np.testing.assert_array_equal(neighbours.nearest(x[::-1], x, 1)[0], 0)
    np.testing.assert_array_equal(neighbours.nearest(x[::-1], x, 1)[1][:, 0], np.arange(20)[::-1])


def test_memorisation():
    rng = np.random.default_rng(0)
    train, heldout, new = (rng.standard_normal((size, 2)) for size in (300, 4000, 5000))
    assert neighbours.memorisation(train, heldout, train) == 1
    assert neighbours.memorisation(train, heldout, heldout) == 0.5
    error = np.sqrt((1 / 4000 + 1 / 5000) / 12)  # of a difference of two means of uniform ranks
    assert neighbours.memorisation(train, heldout, new) == pytest.approx(0.5, abs=6 * error)
    assert neighbours.memorisation(train, heldout, 20 + new) == 0
