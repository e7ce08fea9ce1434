"""Whole runs: N steps, a resume and N steps more are 2N steps, bit for bit; what is reported; what is refused."""

import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusion_jax import devices
from diffusion_jax.data import pipeline
from diffusion_jax.experiment import drawing, sources, wiring
from diffusion_jax.runs import metric_log, record, trained
from diffusion_jax.training import checkpoints, evaluations, loop, reports, setup, state, workdir

ROOT = pathlib.Path(__file__).parent.parent.parent


def recipe(name="toy2d"):
    """The tiny recipe with all that a state can hold: dropout, two averages, a history of losses."""
    config = importlib.import_module(f"configs.{name}").get_config("tiny")
    config.train_steps = 6
    config.network.unet.dropout = config.network.mlp.dropout = 0.2
    config.ema.decays = (0.9, 0.99)
    config.report.update(tensorboard=False, samples_every=0)
    config.checkpoint.update(every=3, keep=5)
    config.eval.every = 3
    config.prediction.variance, config.loss.name, config.times.name = "learned_range", "vlb", "importance"
    config.times.importance.window = 1
    return config


@pytest.mark.parametrize("number", [10, 40])
def test_the_heldout_loss_of_a_few_examples_covers_all_times(number):
    """The loss t² has the mean 1/3; with 40 passes of N times its standard error is below 0.3/sqrt(12 · 40)/N."""
    config = recipe()
    config.batch_size, config.eval.passes, config.process.num_steps = 128, 40, 1000
    source = sources.source(config, "heldout")._replace(size=number)
    experiment = wiring.build(sources.resolve(config, sources.source(config, "train")))

    def loss(params, batch, t, keys, dropout=True):
        return t**2, {}

    found = evaluations.heldout_loss(config, experiment._replace(loss=loss), source)({})
    assert len([name for name in found if "_bin_" in name]) == 10
    assert abs(found["heldout_loss"] - 1 / 3) < 0.01


def stored_state(workdir, step, name="toy2d"):
    config = recipe(name)
    config.update(checkpoints.read_config(workdir, step))
    experiment = wiring.build(config)
    shapes = setup.state_shapes(config, experiment)
    return jax.device_get(checkpoints.restore(workdir, devices.abstract(shapes), step))


def assert_equal(got, want):
    leaves = zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True)
    for (path, a), b in leaves:
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 2)
        result = loop.train(recipe(), workdir)
    return workdir, result


def test_resumed_run_equals_the_uninterrupted_one_in_every_bit(uninterrupted, tmp_path, monkeypatch):
    workdir, _ = uninterrupted
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    config = recipe()
    config.train_steps = 3
    loop.train(config, str(tmp_path))
    assert checkpoints.steps(tmp_path) == [3]
    loop.train(recipe(), str(tmp_path))
    assert_equal(stored_state(tmp_path, 6), stored_state(workdir, 6))
    last = stored_state(workdir, 6)
    assert int(last.step) == 6 and last.history["count"].sum() == 6 * recipe().batch_size


def test_a_run_writes_metrics_checkpoints_and_curves(uninterrupted):
    workdir, result = uninterrupted
    assert result["step"] == 6 and np.isfinite(result["loss"]) and np.isfinite(result["heldout_loss"])
    records = {r["step"]: r for r in metric_log.read_metrics(workdir)}
    assert sorted(records) == [1, 2, 3, 4, 5, 6]
    assert {"loss", "vlb", "grad_norm", "skipped", "images_per_second"} <= set(records[2])
    assert [records[n]["learning_rate"] for n in (1, 2, 6)] == pytest.approx([0.0, 1e-3, 1e-3])  # warm-up of one step
    assert {"heldout_loss", "heldout_loss_bin_9"} <= set(records[6])
    assert checkpoints.read_config(workdir)["data"]["shape"] == (2,)
    assert (pathlib.Path(workdir) / "curves.png").exists()


def test_losses_and_pictures_name_their_weights(tmp_path, caplog):
    """The average of a young run without a ramp is told to lag; the raw weights stand beside it."""
    config = recipe()
    config.report.samples_every, config.eval.every, config.ema.decays = 1, 1, (0.999,)
    for ramp in (0.0, 0.05):
        config.ema.ramp, config.train_steps = ramp, 2
        caplog.clear()
        with caplog.at_level("WARNING", logger="diffusion_jax"):
            workdir = tmp_path / str(ramp)
            results = loop.train(config, str(workdir))
            trained.load(str(workdir)), trained.load(str(workdir), ema="none")
        assert ["ema.ramp" in text for text in caplog.messages] == [True] * (
            3 if not ramp else 0
        )  # start, step 2, load
        last = metric_log.read_metrics(workdir)[-1]
        assert (last["heldout_loss"], last["heldout_loss_raw"]) == (
            results["heldout_loss"],
            results["heldout_loss_raw"],
        )
        assert ramp or last["heldout_loss"] != last["heldout_loss_raw"]
        names = sorted(path.name for path in (workdir / "images").iterdir())
        assert names == [f"samples_0000000{n}_EMA_0.999.png" for n in (1, 2)]
    config.ema.decays = ()
    assert "heldout_loss_raw" not in loop.train(config, str(tmp_path / "raw"))
    assert (tmp_path / "raw" / "images" / "samples_00000002_raw_weights.png").exists()


def test_finished_run_is_logged_and_trains_no_further(uninterrupted, caplog):
    workdir, result = uninterrupted
    with caplog.at_level("INFO", logger="diffusion_jax"):
        again = loop.train(recipe(), workdir)
    assert again["finished"] and again["step"] == 6 and again["loss"] == pytest.approx(result["loss"])
    assert "is finished: step 6 of 6" in caplog.text


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_losses_by_time_are_drawn_whatever_the_bins(prefix, tmp_path):
    """Short chains have no times in the first bin; the directory may be a file:// URL."""
    rows = [{"step": 1, "heldout_loss": 1.0, "heldout_loss_bin_2": 1.0, "heldout_loss_bin_4": 0.5}]
    (tmp_path / metric_log.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    reports.draw_losses(f"{prefix}{tmp_path}", state.RAW)
    assert all((tmp_path / name).is_file() for name in reports.FIGURES)


def test_a_run_is_read_by_its_url(uninterrupted):
    workdir, _ = uninterrupted
    run = trained.load(f"file://{workdir}")
    assert run.step == trained.load(workdir).step
    assert metric_log.read_metrics(f"file://{workdir}") and record.read(f"file://{workdir}")


def test_another_config_in_the_same_workdir_is_refused_by_name(uninterrupted):
    workdir, _ = uninterrupted
    config = recipe()
    config.optimizer.learning_rate = 0.5
    config.train_steps = 9
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate.*--workdir"):
        loop.train(config, workdir)


def test_layout_and_reports_may_differ_on_resume(uninterrupted, tmp_path, monkeypatch):
    """Longer, in another layout, with other reports: it goes on."""
    config = recipe()
    config.loss.name, config.prediction.variance, config.times.name = "simple", "fixed_large", "uniform"
    config.update(train_steps=3)
    loop.train(config, str(tmp_path))
    config.update(train_steps=4, parallel="pmap", accumulate_steps=2, remat=True)
    config.report.every, config.checkpoint.keep = 2, 1
    assert loop.train(config, str(tmp_path))["step"] == 4
    config.update(train_steps=5, parallel="fsdp")
    monkeypatch.setattr(devices.sharding, "LEAST_SHARDED", 16)
    assert loop.train(config, str(tmp_path))["step"] == 5
    config.update(train_steps=6, parallel="shard_map")
    assert loop.train(config, str(tmp_path))["step"] == 6


TRAIN = """
import sys
from diffusion_jax import main
for steps, workdir in zip(sys.argv[1::2], sys.argv[2::2]):
    flags = ["--config=configs/digits.py:tiny", "--config.report.tensorboard=False", "--config.eval.every=0"]
    flags += ["--config.report.samples_every=0", "--config.network.unet.dropout=0.2"]
    assert main.run(["main", "train", *flags, f"--config.train_steps={steps}", f"--workdir={workdir}"]) == 0
"""


@pytest.mark.slow
def test_a_unet_resumed_in_another_process_equals_one_that_was_not_interrupted(tmp_path):
    """Perceptrons are killed and resumed in test_processes.py."""
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=1")}
    for runs in (["1", "parts"], ["2", "parts", "2", "whole"]):
        arguments = [run if run.isdigit() else str(tmp_path / run) for run in runs]
        command = [sys.executable, "-c", TRAIN, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert f"resuming {tmp_path / 'parts'} at step 1" in done.stderr
    assert_equal(*(stored_state(tmp_path / name, 2, "digits") for name in ("parts", "whole")))


def test_early_pictures_come_before_regular_ones():
    assert [n for n in range(1, 2001) if reports.is_drawn(n, 1000)] == [10, 100, 1000, 2000]


def test_summary_leaves_out_the_steps_that_were_not_finite():
    window = [{"loss": x, "grad_norm": 1.0, "skipped": n} for x, n in ((1.0, 0.0), (float("nan"), 1.0), (3.0, 1.0))]
    assert reports.summary(window) == {"loss": 2.0, "grad_norm": 1.0, "skipped": 1.0}
    assert np.isnan(reports.summary(window[1:2])["loss"])


def diverging(monkeypatch, healthy):
    """toy2d, not finite from step 4 on in those orders of the data for which `healthy(seed)` is false."""
    made = pipeline.batch

    def batch(source, seed, step, **rest):
        rows = made(source, seed, step, **rest)
        return rows if step < 3 or healthy(seed) else rows | {"x0": rows["x0"] * np.nan}

    monkeypatch.setattr(pipeline, "batch", batch)
    config = recipe()
    config.loss.name, config.prediction.variance, config.times.name = "simple", "fixed_large", "uniform"
    config.update(train_steps=8)
    config.report.every, config.guard.most_skipped = 1, 2
    return config


def test_a_run_whose_updates_are_not_finite_gives_up(tmp_path, monkeypatch):
    """The error has the steps, the last good checkpoint, and the loss at each part of t."""
    with pytest.raises(loop.Diverged) as raised:
        loop.train(diverging(monkeypatch, lambda seed: False), str(tmp_path))
    figures = re.findall(r"\d+\.\d+", str(raised.value).replace(str(tmp_path), ""))
    whole = re.findall(r"(?<![\d.])\d+(?![\d.])", str(raised.value).replace(str(tmp_path), ""))
    assert raised.value.exit_code == 3 and len(figures) >= 2 and {"2", "4", "5", "3"} <= set(whole)
    assert checkpoints.steps(tmp_path) == [3]
    (line,) = [line for line in record.read(tmp_path) if line["event"] == "end"]
    assert line["outcome"] == "Diverged" and line["step"] == 5


def test_a_run_goes_back_and_takes_the_data_in_another_order(tmp_path, monkeypatch):
    """Also after it was killed: the checkpoint knows how often the run went back."""
    config = diverging(monkeypatch, lambda seed: seed > 0)
    config.guard.rollbacks = 1
    assert loop.train(config, str(tmp_path / "a"))["step"] == 8
    assert checkpoints.steps(tmp_path / "a") == [3, 6, 8] and checkpoints.read_rollbacks(tmp_path / "a") == 1
    config.train_steps = 6
    loop.train(config, str(tmp_path / "b"))
    config.train_steps = 8
    loop.train(config, str(tmp_path / "b"))
    for a, b in zip(*(jax.tree.leaves(checkpoints.restore_weights(tmp_path / name)) for name in "ab"), strict=True):
        np.testing.assert_array_equal(a, b)


def fails(*_, **__):
    raise ArithmeticError("injected")


def failing_data(patch):
    made = pipeline.batch
    patch.setattr(pipeline, "batch", lambda *args, **options: (made if args[2] < 3 else fails)(*args, **options))


def failing_evaluation(patch):
    patch.setattr(evaluations, "heldout_loss", lambda *_: fails)


def failing_log(patch):
    made = metric_log.open_reporter

    def reporter(*args):
        opened = made(*args)
        return opened._replace(scalars=lambda step, values: (opened.scalars if step < 3 else fails)(step, values))

    patch.setattr(metric_log, "open_reporter", reporter)


def failing_picture(patch):
    patch.setattr(drawing, "quick_samples", lambda _: fails)


def signal_in_a_picture(patch):
    patch.setattr(drawing, "quick_samples", lambda _: lambda *_: signal.raise_signal(signal.SIGTERM))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (failing_data, ArithmeticError),
        (failing_evaluation, ArithmeticError),
        (failing_log, ArithmeticError),
        (failing_picture, ArithmeticError),
        (signal_in_a_picture, loop.Preempted),
    ],
)
def test_a_run_is_saved_on_any_error_or_signal(fault, error, uninterrupted, tmp_path, monkeypatch):
    """The state that is saved is that of a run without the fault, after the same step."""
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    fault(monkeypatch)
    config = recipe()
    config.checkpoint.every = 100
    config.report.samples_every = 3 if "picture" in fault.__name__ else 0
    with pytest.raises(error):
        loop.train(config, str(tmp_path))
    assert checkpoints.steps(tmp_path) == [3]
    assert_equal(stored_state(tmp_path, 3), stored_state(uninterrupted[0], 3))


def test_pictures_of_a_conditional_model_name_its_classes(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(metric_log.pictures, "picture", lambda *a: given.append(a) or np.zeros((4, 4), np.uint8))
    config = recipe()
    config.train_steps = config.report.samples_every = 1
    config.report.num_samples, config.eval.every = 5, 0
    for conditional in (True, False):
        config.network.conditional = conditional
        loop.train(config, str(tmp_path / str(conditional)))
        captions = given[-1][2]
        assert len(given[-1][0]) == 5 and len(captions) == (5 if conditional else 0)
        assert set(captions) <= {f"class {i}" for i in range(8)}


def test_a_workdir_is_trained_by_one_at_a_time(tmp_path):
    with workdir.lock(tmp_path), pytest.raises(ValueError, match=str(os.getpid())):
        loop.train(recipe(), str(tmp_path))
    with workdir.lock(tmp_path):
        pass


def test_a_checkpoint_that_appears_before_the_lock_is_not_ignored(tmp_path, monkeypatch):
    found = iter([[], [4]])
    monkeypatch.setattr(loop.checkpoints, "steps", lambda place: next(found))
    with pytest.raises(ValueError, match="--workdir"):
        loop.train(recipe(), str(tmp_path))


def test_a_loaded_run_is_of_one_checkpoint(tmp_path, monkeypatch):
    """A training may save another one while a run is loaded."""
    loop.train(recipe(), str(tmp_path))
    asked = []

    def restore_weights(place, step, *options):
        asked.append(step)
        return whole(place, step, *options)

    whole = checkpoints.restore_weights
    monkeypatch.setattr(checkpoints, "restore_weights", restore_weights)
    listed = iter([[3], *[[3, 6]] * 9])
    monkeypatch.setattr(checkpoints, "steps", lambda place: next(listed))
    assert trained.load(str(tmp_path)).step == 3 and asked == [3]


def test_evaluation_takes_any_number_of_devices():
    """Batches of 6 on 4 devices: the rows that fill up the last share do not count."""
    config = recipe()
    config.batch_size = 6
    source = sources.source(config, "heldout")
    config = sources.resolve(config, sources.source(config, "train"))
    experiment = wiring.build(config)
    params = wiring.init(config, experiment.network, jax.random.key(0))
    assert np.isfinite(evaluations.heldout_loss(config, experiment, source)(params)["heldout_loss"])
