"""`main benchmark`: consistent values, whatever the speed of the machine."""

import contextlib
import io
import json
import pathlib

import jax
import numpy as np
import pytest

from configs import cifar10_ddpm, digits, lsun_church256, toy2d
from diffusion_jax import main
from diffusion_jax.analysis import timing
from diffusion_jax.analysis.description import describe
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.metrics import feature_networks

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def measured():
    """Values and table of `main benchmark` for the tiny digits recipe."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(ROOT)
        patch.setattr(timing, "LEAST_SECONDS", 0.01)
        flags = ["--config=configs/digits.py:tiny", "--batch_size=16", "--repeats=3", "--features=digits"]
        assert main.run(["main", "benchmark", *flags]) == 0
    *table, last = out.getvalue().splitlines()
    return json.loads(last), table


def test_values_are_consistent(measured):
    figures, _ = measured
    assert figures["images_per_second"] == pytest.approx(16 / figures["loop_step_seconds"])
    assert figures["share_of_peak"] == pytest.approx(figures["flops_per_second"] / figures["peak_flops_per_second"])
    assert figures["overhead_share"] < 1 and 0 <= figures["data_wait_share"] < 1
    for name in ("train_step", "loop_step", "network_call"):
        low, high = figures[f"{name}_quartiles"]
        assert 0 < low <= figures[f"{name}_seconds"] <= high
    assert figures["first_step_seconds"] > figures["train_compile_seconds"] > 0
    assert figures["sampling_steps_timed"] == figures["sampling_steps"] == figures["network_calls"] == 4
    assert figures["process_peak_bytes"] > figures["compiled_bytes"] > 0
    assert figures["batch_size"] == figures["network_call_images"] == figures["sampling_images"] == 16
    each = figures["features_call_seconds"] / figures["features_call_images"]
    assert figures["features_images_per_second"] == pytest.approx(1 / each)


def test_flops_are_those_of_describe(measured):
    config = digits.get_config("tiny")
    config.batch_size = 16
    assert measured[0]["train_step_flops"] == describe(config)[1]["train_step_flops"]


def test_table_has_a_line_for_each_part(measured):
    figures, table = measured
    parts = ["machine", "batch", "compile", "train step", "in its loop", "overhead", "data alone", "FLOPs"]
    parts += ["network call", "sampling", "features", "memory"]
    assert [line[: len(part)] for line, part in zip(table, parts, strict=True)] == parts
    assert f"{figures['images_per_second']:,.1f} images/s" in table[4]


def test_long_sampling_is_extrapolated_from_a_part(monkeypatch):
    config = digits.get_config("tiny")
    with config.unlocked():
        config.process.num_steps = 40
    config = sources.resolve(config, sources.source(config, "train"))
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.001)
    monkeypatch.setattr(timing, "MOST_SECONDS", 0.0)
    experiment = wiring.build(config)
    params = wiring.init(config, experiment.network, jax.random.key(0))
    figures = timing.sampling(config, experiment, params, repeats=2)
    assert figures["sampling_steps_timed"] == 2 and figures["sampling_steps"] == 40
    assert figures["sampling_seconds"] > 0 and figures["network_calls"] == 40


def test_random_weights_replace_missing_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_networks, "IMPORTED", tmp_path / "none.npz")
    source = sources.source(digits.get_config(), "train")
    assert timing.feature_network("inception", source, "").weights == "random"
    with pytest.raises(FileNotFoundError, match=r"mine\.npz"):
        timing.feature_network("inception", source, str(tmp_path / "mine.npz"))


@pytest.mark.parametrize("recipe", [cifar10_ddpm, lsun_church256])
def test_random_images_replace_missing_data(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = recipe.get_config("tiny")
    source, real = timing.data(config)
    assert not real and source.shape == (8, 8, 3) and source.levels == 256
    x0, label = source.read(np.arange(100))
    assert x0.dtype == np.uint8 and x0.std() > 60 and set(label) == set(range(max(1, config.data.classes)))


def test_missing_vectors_are_an_error():
    config = toy2d.get_config("tiny")
    config.data.toy2d.kind = "cube"
    with pytest.raises(ValueError, match="cube"):
        timing.data(config)


@pytest.mark.parametrize(
    ("flags", "key"),
    [(["--repeats=1"], "--repeats=1"), (["--batch_size=-4"], "batch_size=-4")],
)
def test_bad_flags_are_one_line(flags, key, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main.run(["main", "benchmark", "--config=configs/digits.py:tiny", *flags]) == 2
    assert key in capsys.readouterr().err.splitlines()[-1]
