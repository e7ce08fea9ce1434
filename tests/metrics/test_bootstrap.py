"""Bootstrap intervals against the variation of statistics from one set of samples to another."""

import numpy as np
import pytest

from diffusion_jax.metrics import frechet, manifold
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


def test_intervals_repeat_and_need_at_least_four_samples():
    x = np.random.default_rng(0).standard_normal(50)
    assert interval(lambda rows: x[rows].mean(), x.mean(), 50) == interval(lambda rows: x[rows].mean(), x.mean(), 50)
    with pytest.raises(ValueError):
        interval(lambda rows: 0.0, 0.0, 3)
