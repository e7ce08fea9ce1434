"""Figures while a run trains: they are those of the metrics, are reported, and decide which checkpoint is best."""

import pathlib

import numpy as np
import pytest

from configs import digits as recipe
from diffusion_jax.data.embedded import digits
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


def test_figures_are_those_of_the_metrics():
    real, samples = (digits(split).read(np.arange(n))[0] for split, n in (("train", 1500), ("heldout", 50)))
    found = monitor.judging(config(), lambda params, seeds: samples[seeds])(None)
    x, y = (z.reshape(len(z), -1).astype(np.float64) for z in (real, samples))
    expected = frechet.frechet_distance(*frechet.statistics(x), *frechet.statistics(y))
    assert found["fd_pixels_50"] == pytest.approx(expected, rel=1e-6)
    assert found["recall_pixels_50"] == manifold.recall(x, y)
    assert set(found) == {f"{name}_pixels_50" for name in ("fd", "precision", "recall", "density", "coverage")}


def test_a_run_reports_them_and_its_best_checkpoint_is_best_by_the_one_named(tmp_path):
    c = config(quality_metrics=("fid",))
    c.train_steps, c.checkpoint.best, c.checkpoint.keep = 3, "fd_pixels_50", 3
    c.optimizer.learning_rate, c.ema.decays = 0.1, ()  # so that three steps are seen in the samples
    results = loop.train(c, str(tmp_path))
    reported = {record["step"]: record["fd_pixels_50"] for record in metric_log.read_metrics(tmp_path)}
    assert results["fd_pixels_50"] == reported[3] and set(reported) == {1, 2, 3}
    assert len(set(reported.values())) == 3
    assert checkpoints.find_step(tmp_path, "best") == min(reported, key=reported.get)


def test_aim():
    measured = {"fd_pixels_50": 3.0, "recall_pixels_50": 0.25}
    assert monitor.aim("fd_pixels_50", measured) == 3 and monitor.aim("recall_pixels_50", measured) == -0.25
    assert monitor.aim("fd_pixels_50", {}) is None
    with pytest.raises(ValueError, match=r"checkpoint\.best='fid' is not measured; use one of fd_pixels_50, recall_"):
        monitor.aim("fid", measured)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality_metrics": ("fdd",)}, r"eval.quality_metrics='fdd' is not known \(did you mean 'fid'\?\)"),
        ({"quality_metrics": ()}, "wants eval.quality_metrics"),
        ({"features": "digit"}, r"features='digit' is not known \(did you mean 'digits'\?\)"),
    ],
)
def test_what_does_not_suit_is_refused(changes, message):
    c = config()
    c.eval.update(changes)
    with pytest.raises(ValueError, match=message):
        monitor.judging(c, lambda params, seeds: None)
