"""Bootstrap intervals against the variation of statistics from one set of samples to another."""

import numpy as np
import pytest

from diffusion_jax.metrics import frechet, manifold, registry
from diffusion_jax.metrics.bootstrap import interval

REAL = np.random.default_rng(99).standard_normal((400, 4))
DISTANCE = frechet.frechet_from(*frechet.statistics(REAL))
RADII = manifold.radii(REAL, 3)
STATISTICS = {
    "mean": lambda x: float(x[:, 0].mean()),
    "frechet": lambda x: DISTANCE(*frechet.statistics(x)),
    "precision": lambda x: float((manifold.count_balls(x, REAL, RADII) > 0).mean()),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_are_as_wide_as_statistics_vary(name):
    statistic = STATISTICS[name]
    """The width of a 95 % range from n draws has a relative standard error of 0.96 / sqrt(n).

    Here that is 0.048 for the sets and 0.021 for the mean of 20 intervals: 0.3 is more than 5 standard errors.
    Precision is a multiple of 1/100 in half of the samples, which adds up to 0.09.
    """
    rng = np.random.default_rng(0)
    sets = [1.2 * rng.standard_normal((200, 4)) for _ in range(400)]
    low, high = np.quantile([statistic(x) for x in sets], [0.025, 0.975])
    widths = []
    for x in sets[:20]:
        a, b = interval(lambda rows, x=x: statistic(x[rows]), statistic(x), 200)
        assert a < statistic(x) < b
        widths.append(b - a)
    assert np.mean(widths) == pytest.approx(high - low, rel=0.3)


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_intervals_of_a_distance_near_zero_are_as_wide_as_it_varies(shift):
    """Deviations of halves alone are 1.7 times too wide for samples of the reference's own law.

    Here the mean of 20 widths is 0.93 to 1.0 times that of 200 sets, with a standard error of 0.07 (of 0.96/sqrt(200)).
    """
    rng, dims = np.random.default_rng(0), 16
    distance = frechet.frechet_from(np.zeros(dims), np.eye(dims))

    def statistic(x):
        return distance(*frechet.statistics(x))

    sets = [rng.standard_normal((400, dims)) + shift for _ in range(200)]
    low, high = np.quantile([statistic(x) for x in sets], [0.025, 0.975])
    ends = [interval(lambda rows, x=x: statistic(x[rows]), statistic(x), 400) for x in sets[:20]]
    assert np.mean([b - a for a, b in ends]) == pytest.approx(high - low, rel=0.25)


def test_intervals_stay_within_the_range_of_the_statistic():
    x = np.array([1.0] * 99 + [0.0])
    low, high = interval(lambda rows: x[rows].mean(), x.mean(), 100, within=registry.range_of("coverage"))
    assert 0.9 < low < x.mean() and high == 1.0


def test_intervals_repeat_and_need_at_least_four_samples():
    x = np.random.default_rng(0).standard_normal(50)
    assert interval(lambda rows: x[rows].mean(), x.mean(), 50) == interval(lambda rows: x[rows].mean(), x.mean(), 50)
    with pytest.raises(ValueError):
        interval(lambda rows: 0.0, 0.0, 3)
