"""Metrics while a run trains: their values, their log, and the choice of the best checkpoint."""

import pathlib

import numpy as np
import pytest

from configs import digits as recipe
from diffusion_jax.data.embedded import digits
from diffusion_jax.experiment import quality
from diffusion_jax.metrics import frechet, manifold, monitor
from diffusion_jax.runs import metric_log
from diffusion_jax.training import checkpoints, loop

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parent.parent.parent)


def config(**changes):
    c = recipe.get_config("tiny")
    c.eval.update(quality_every=1, quality_samples=50, features="pixels", every=2, **changes)
    c.report.update(samples_every=0, tensorboard=False)
    c.sampler.tile = 16
    c.data.update(shape=(8, 8, 1), levels=17, classes=10)
    return c


def test_values_are_those_of_the_metrics():
    real, samples = (digits(split).read(np.arange(n))[0] for split, n in (("train", 1500), ("heldout", 50)))
    values = quality.make_monitor(config(), lambda params, seeds: samples[seeds])(None)
    x, y = (z.reshape(len(z), -1).astype(np.float64) for z in (real, samples))
    expected = frechet.frechet_distance(*frechet.statistics(x), *frechet.statistics(y))
    assert values["fd_pixels_50"] == pytest.approx(expected, rel=1e-6)
    assert values["recall_pixels_50"] == manifold.recall(x, y)
    assert set(values) == {f"{name}_pixels_50" for name in ("fd", "precision", "recall", "density", "coverage")}


def test_a_run_logs_metrics_and_its_best_checkpoint_minimises_the_chosen_one(tmp_path):
    c = config(quality_metrics=("fid",))
    c.train_steps, c.checkpoint.best, c.checkpoint.keep = 3, "fd_pixels_50", 3
    c.optimizer.learning_rate, c.ema.decays = 0.1, ()  # so that three steps are seen in the samples
    results = loop.train(c, str(tmp_path))
    reported = {record["step"]: record["fd_pixels_50"] for record in metric_log.read_metrics(tmp_path)}
    assert results["fd_pixels_50"] == reported[3] and set(reported) == {1, 2, 3}
    assert len(set(reported.values())) == 3
    assert checkpoints.find_step(tmp_path, "best") == min(reported, key=reported.get)


def test_objective():
    measured = {"fd_pixels_50": 3.0, "recall_pixels_50": 0.25}
    assert monitor.objective("fd_pixels_50", measured) == 3 and monitor.objective("recall_pixels_50", measured) == -0.25
    assert monitor.objective("fd_pixels_50", {}) is None
    name = "memorisation_pixels_50"
    at_half, far, copied = (monitor.objective(name, {name: value}) for value in (0.5, 0.1, 1.0))
    assert at_half < far < copied


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"quality_metrics": ("fdd",)}, "eval.quality_metrics='fdd'"),
        ({"quality_metrics": ()}, "eval.quality_metrics"),
        ({"features": "digit"}, "features='digit'"),
    ],
)
def test_options_that_do_not_suit_are_refused(changes, key):
    c = config()
    c.eval.update(changes)
    with pytest.raises(ValueError, match=key):
        quality.check_monitor(c)


@pytest.mark.parametrize("best", ["fid", "fd_pixels_500", "precision_pixels_50"])
def test_a_best_checkpoint_by_what_is_not_measured_is_refused_at_once(best):
    c = config(quality_metrics=("fid",))
    c.checkpoint.best = best
    with pytest.raises(ValueError, match=r"checkpoint\.best=.*fd_pixels_50"):
        quality.check_monitor(c)
