"""Weights & Biases: what it is given, by a double of its module; and its files, where it is installed."""

import sys
import types

import numpy as np
import pytest

from diffusion_jax.runs import metric_log, pictures, weights_and_biases

CONFIG = {"network.width": 3, "ema.decays": (0.9,), "data.name": "x"}
DIGITS = (np.arange(3 * 8 * 8).reshape(3, 8, 8, 1) % 17).astype(np.uint8)


def report(workdir):
    reporter = metric_log.open_reporter(workdir, False, CONFIG, "project")
    reporter.scalars(5, {"loss": np.float32(0.25)})
    reporter.images(5, "samples", DIGITS, 17, "EMA 0.9")
    reporter.close()


def test_metrics_are_logged_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    calls = []

    class Opened:
        def define_metric(self, name, step_metric):
            calls.append(("define_metric", name, step_metric))

        def log(self, values):
            calls.append(("log", values))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options))
        return Opened()

    double = types.ModuleType("wandb")
    double.init, double.Image, double.Settings = init, np.array, dict
    monkeypatch.setitem(sys.modules, "wandb", double)
    weights_and_biases.check("project")
    workdir = tmp_path / "run"
    report(workdir)
    report(workdir)
    first, second = calls[: len(calls) // 2], calls[len(calls) // 2 :]
    (_, options), axis, scalars, (_, picture), finished = first
    assert options["project"] == "project" and options["config"] == CONFIG and options["name"] == "run"
    assert options["dir"] == str(workdir) and options["resume"] == "allow"
    assert options["settings"]["console"] == "off"  # the last line of a command's output is its result
    assert second[0] == ("init", options) and len(options["id"]) >= 8
    assert (axis, scalars, finished) == (
        ("define_metric", "*", "step"),
        ("log", {"step": 5, "loss": 0.25}),
        ("finish",),
    )
    assert picture["step"] == 5
    np.testing.assert_array_equal(picture["samples/EMA 0.9"][..., 0], pictures.picture(DIGITS, 17))


def test_another_run_has_another_id(tmp_path, monkeypatch):
    ids = []

    def init(**options):
        ids.append(options["id"])
        return types.SimpleNamespace(define_metric=lambda *_, **__: None, finish=None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Settings=dict))
    for name in ("a", "b"):
        weights_and_biases.open_writer(tmp_path / name, "project", {})
    assert ids[0] != ids[1]


def test_missing_wandb_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"report\.wandb"):
        weights_and_biases.check("project")
    weights_and_biases.check("")


def test_offline_files(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    report(tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    written = file.read_bytes()
    assert all(text in written for text in (b"network.width", b"loss", b"samples/EMA 0.9"))
