"""Optimal-transport coupling: against all assignments, and as part of a batch."""

import itertools

import numpy as np

from diffusion_jax.data import pipeline, source
from diffusion_jax.data.coupling import optimal_transport


def test_order_is_the_best_of_all_in_any_range_of_the_data():
    rng = np.random.default_rng(0)
    x0, noise = rng.integers(0, 17, (5, 3, 1)).astype(np.uint8), rng.normal(size=(5, 3, 1)).astype(np.float32)
    found = optimal_transport(x0, noise)
    scaled = x0 / 8.0 - 1
    np.testing.assert_array_equal(optimal_transport(scaled, noise), found)
    costs = [((scaled - noise[list(order)]) ** 2).sum() for order in itertools.permutations(range(5))]
    np.testing.assert_allclose(((scaled - found) ** 2).sum(), min(costs), rtol=1e-12)


def test_noise_of_a_batch_does_not_depend_on_its_division():
    examples = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    data = source.from_arrays("points", examples, np.zeros(20, np.int32), 0, 1)
    whole = pipeline.batch(data, 3, 5, 8, False, couple=optimal_transport)
    part = pipeline.batch(data, 3, 5, 8, False, slice(2, 5), optimal_transport)
    assert whole["noise"].dtype == np.float32 and whole["noise"].shape == (8, 2)
    for name, value in part.items():
        np.testing.assert_array_equal(value, whole[name][2:5])
    np.testing.assert_array_equal(whole["x0"], pipeline.batch(data, 3, 5, 8, False)["x0"])
    assert not np.array_equal(whole["noise"], pipeline.batch(data, 3, 6, 8, False, couple=optimal_transport)["noise"])
