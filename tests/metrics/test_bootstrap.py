"""Bootstrap intervals against how figures really vary from one set of samples to another."""

import numpy as np
import pytest

from diffusion_jax.metrics import frechet, manifold
from diffusion_jax.metrics.bootstrap import interval

REAL = np.random.default_rng(99).standard_normal((400, 4))
DISTANCE = frechet.frechet_from(*frechet.statistics(REAL))
RADII = manifold.radii(REAL, 3)
FIGURES = {
    "mean": lambda x: float(x[:, 0].mean()),
    "frechet": lambda x: DISTANCE(*frechet.statistics(x)),
    "precision": lambda x: float((manifold.balls_around(x, REAL, RADII) > 0).mean()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_intervals_are_as_wide_as_figures_vary(name):
    figure = FIGURES[name]
    rng = np.random.default_rng(0)
    sets = [1.2 * rng.standard_normal((200, 4)) for _ in range(100)]
    low, high = np.quantile([figure(x) for x in sets], [0.025, 0.975])
    widths = []
    for x in sets[:5]:
        a, b = interval(lambda rows, x=x: figure(x[rows]), figure(x), 200)
        assert a < figure(x) < b
        widths.append(b - a)
    assert np.mean(widths) == pytest.approx(high - low, rel=0.3)


def test_the_same_every_time_and_refused_where_there_is_nothing_to_draw():
    x = np.random.default_rng(0).standard_normal(50)
    assert interval(lambda rows: x[rows].mean(), x.mean(), 50) == interval(lambda rows: x[rows].mean(), x.mean(), 50)
    with pytest.raises(ValueError, match="2 replicates and 4 samples"):
        interval(lambda rows: 0.0, 0.0, 3)
