"""Curves are drawn whatever the values are, and hold what they are given."""

import math

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.runs import plots


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "records",
    [
        [
            (
                n,
                {"loss": math.exp(-n)}
                | ({"heldout_loss": math.exp(-n) + 0.1, "heldout_loss_raw": math.exp(-n)} if n % 3 == 0 else {}),
            )
            for n in range(9)
        ],
        [(1, {"loss": math.nan, "heldout_loss": -1.0}), (2, {"loss": -2.0})],
        [(1, {"loss": 0.5})],
        [(1, {"other": 1.0})],
        [],
    ],
)
def test_losses(tmp_path, records):
    path = tmp_path / "made" / "curves.png"
    plots.losses(path, [{"step": step, **values} for step, values in records], "run", "EMA 0.9")
    assert pixels_of(path).shape == (540, 840, 4)
    if records:  # a panel of its own for the learning rate
        plots.losses(path, [{"step": step, "learning_rate": 1e-4, **values} for step, values in records], "run", "")
        assert pixels_of(path).shape[0] > 540


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_losses_by_time(steps, tmp_path):
    """Nothing is drawn for intervals that an evaluation did not reach, and for values that are not finite."""
    records = [{"step": n, "heldout_loss": 1.0, "heldout_loss_bin_0": 1 / n, "heldout_loss_bin_9": math.nan}
               | ({"heldout_loss_bin_3": 0.01} if n % 2 else {}) for n in range(1, steps + 1)]  # fmt: skip
    plots.loss_by_time(tmp_path / "a.png", [{"step": 0, "loss": 2.0}, *records], "run")
    assert (pixels_of(tmp_path / "a.png")[..., :3].min(-1) < 250).sum() > 1000


def test_series_hold_the_points_of_evaluations(tmp_path):
    """Values that are logged as well share a panel; others have one of their own."""
    lines = {"fd": [(1, 2.0), (2, 1.0)], "grad_norm": [(1, 2.0), (2, 1.0)]}
    points = {"fd": [(2, 1.0, 0.5, 2.0)], "precision": [(2, 0.5, math.nan, math.nan)]}
    sizes = []
    for evaluated in ({}, {"fd": points["fd"]}, points):
        plots.series(tmp_path / "a.png", lines, evaluated)
        drawn = pixels_of(tmp_path / "a.png").astype(int)
        sizes.append(drawn.shape[1])
        assert ((drawn[..., 0] - drawn[..., 2] > 100).sum() > 10) == bool(evaluated)  # an orange point
    assert sizes[0] == sizes[1] < sizes[2]


def test_curves_of_the_bound(tmp_path):
    steps = np.linspace(1e-6, 2.0, 20)
    curves = {
        "t": np.linspace(1, 0.05, 20),
        "bits_per_dim": steps,
        "rate_bits_per_dim": np.concatenate([[0], np.cumsum(steps)[:-1]]),
        "rmse": np.linspace(70, 1, 20),
        "prior_bits_per_dim": np.float64(1e-4),
    }
    for draw in (plots.bound_terms, plots.rate_distortion):
        draw(tmp_path / "a.png", curves, "run")
        drawn = pixels_of(tmp_path / "a.png")
        assert (drawn[..., 2].astype(int) - drawn[..., 0] > 100).sum() > 200  # a blue line
