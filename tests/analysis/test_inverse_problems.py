"""Coverage of the intervals of draws, where it is known, and the Python interface."""

import numpy as np
import pytest

from diffusion_jax.analysis.inverse_problems import coverage


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("draws", [4, 19])
def test_draws_like_the_truth_are_covered_nine_times_in_ten(draws, levels):
    """Within four standard errors, for numbers and for grey levels, which tie."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, draws + 1, 10))
    x = np.clip(np.round(x), -1, 1) if levels else x
    assert abs(coverage(x[:, 1:], x[:, 0]) - 0.9) < 4 * np.sqrt(0.09 / 20_000)
    narrow = np.round(x[:, 1:] / 2) if levels else x[:, 1:] / 2
    assert coverage(narrow, x[:, 0]) < 0.85
