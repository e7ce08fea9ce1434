"""Metrics survive kills and restarts, and nothing needs TensorFlow."""

import importlib
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.runs import metric_log, pictures


def lines(workdir):
    return (workdir / metric_log.METRICS).read_text().splitlines()


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def report(workdir, *records):
    reporter = metric_log.open_reporter(workdir, tensorboard=False)
    for step, values in records:
        reporter.scalars(step, values)
    reporter.close()


def series(workdir, name):
    return {r["step"]: r[name] for r in metric_log.read_metrics(workdir) if name in r}


def test_metrics_are_json_lines_at_once(tmp_path):
    workdir = tmp_path / "new" / "run"
    reporter = metric_log.open_reporter(workdir, tensorboard=False)
    reporter.scalars(1, {"loss": np.float32(0.5), "grad_norm": jax.numpy.float32(2.0)})
    assert len(lines(workdir)) == 1  # before it is closed
    record = json.loads(lines(workdir)[0])
    assert record["step"] == 1 and record["loss"] == 0.5 and record["grad_norm"] == 2.0 and record["time"] > 1.7e9
    reporter.close()


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    report(tmp_path, (1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(lines(tmp_path)[0], parse_constant=refuse)
    (record,) = metric_log.read_metrics(tmp_path)
    assert math.isnan(record["a"]) and record["b"] == math.inf and record["c"] == -math.inf and record["d"] == 1.0


def test_lines_of_a_step_are_merged(tmp_path):
    report(tmp_path, (1, {"loss": 3.0}), (2, {"loss": 2.0}), (2, {"heldout_loss": 2.5}), (3, {"loss": 1.0}))
    assert [r["step"] for r in metric_log.read_metrics(tmp_path)] == [1, 2, 3]
    assert series(tmp_path, "loss") == {1: 3.0, 2: 2.0, 3: 1.0}
    assert series(tmp_path, "heldout_loss") == {2: 2.5}
    assert metric_log.last(tmp_path, "loss") == 1.0
    assert metric_log.last(tmp_path, "heldout_loss") == 2.5
    assert metric_log.last(tmp_path, "nothing") is None


def test_after_a_resume_the_later_run_counts(tmp_path):
    report(tmp_path, *((n, {"loss": float(n)}) for n in range(1, 8)))
    report(tmp_path, (4, {"loss": 40.0}), (6, {"loss": 60.0}))
    assert series(tmp_path, "loss") == {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0, 6: 60.0}
    report(tmp_path, (6, {"loss": 600.0}))
    assert series(tmp_path, "loss")[6] == 600.0


@pytest.mark.parametrize("incomplete", ['{"step": 3, "loss": 0.', '{"step": 3', "{", "3", "[1]", "\0\0"])
def test_incomplete_line(tmp_path, incomplete):
    report(tmp_path, (1, {"loss": 1.0}), (2, {"loss": 2.0}))
    with (tmp_path / metric_log.METRICS).open("a") as file:
        file.write(incomplete)
    assert series(tmp_path, "loss") == {1: 1.0, 2: 2.0}
    report(tmp_path, (3, {"loss": 3.0}))
    assert series(tmp_path, "loss") == {1: 1.0, 2: 2.0, 3: 3.0}


def test_no_metrics(tmp_path):
    for read in (metric_log.read_metrics, lambda workdir: metric_log.last(workdir, "loss")):
        with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
            read(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_reports(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    reporter = metric_log.open_reporter(tmp_path)
    reporter.scalars(1, {"loss": 1.0})
    reporter.images(1, "samples", np.zeros((1, 2, 2, 1), np.uint8), 256, "raw weights")
    reporter.close()
    assert not list(tmp_path.iterdir())


def test_without_tensorflow_one_line_names_the_extra(tmp_path, monkeypatch, caplog):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    caplog.set_level("INFO")
    reporter = metric_log.open_reporter(tmp_path)
    reporter.scalars(1, {"loss": 1.0})
    reporter.close()
    assert caplog.text.count("diffusion_jax[tf]") == 1
    assert series(tmp_path, "loss") == {1: 1.0}


def test_tensorboard_holds_the_same_values(tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    digits = np.arange(3 * 8 * 8).reshape(3, 8, 8, 1) % 17
    reporter = metric_log.open_reporter(tmp_path, config={"network.width": 3, "ema.decays": (0.9,), "data.name": "x"})
    reporter.scalars(5, {"loss": 0.25})
    reporter.images(5, "samples", digits.astype(np.uint8), 17, "EMA 0.9")
    reporter.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "_hparams_/session_start_info" in events.Tags()["tensors"] or "hparams" in str(events.PluginTagToContent)
    text = str(tensor_util.make_ndarray(events.Tensors("config")[0].tensor_proto))
    assert "network.width = 3" in text and "ema.decays = (0.9,)" in text
    (scalar,) = events.Tensors("loss")
    assert (scalar.step, float(tensor_util.make_ndarray(scalar.tensor_proto))) == (5, 0.25)
    width, height, png = tensor_util.make_ndarray(events.Tensors("samples/EMA 0.9")[0].tensor_proto)
    picture = pictures.picture(digits, 17)
    assert (int(height), int(width)) == picture.shape
    file = tmp_path / "images" / "samples_00000005_EMA_0.9.png"
    np.testing.assert_array_equal(pixels_of(file), picture)
    assert png.startswith(b"\x89PNG")


def test_heavy_packages_are_imported_when_they_are_needed():
    program = (
        "import sys; from diffusion_jax.runs import metric_log, pictures; "
        "print([name for name in ('tensorflow', 'matplotlib', 'PIL', 'tensorboard') if name in sys.modules])"
    )
    root = pathlib.Path(metric_log.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_banner(tmp_path):
    kernel, bias = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((300, 4), (4,)))
    shapes = {
        "net": {"block": {"dense": {"kernel": kernel, "bias": bias}}, "out": {"kernel": kernel}},
        "schedule": bias,
    }
    text = metric_log.banner(shapes, jax.devices(), tmp_path)
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if "|" in line]
    assert rows == [
        ("Module", "Arrays", "Parameters"),
        ("net/block", "2", "1,204"),
        ("net/out", "1", "1,200"),
        ("schedule", "1", "4"),
        ("total", "4", "2,408"),
    ]
    assert "devices: 4 x cpu" in text and "4 of them here, in process 0 of 1" in text and str(tmp_path) in text
