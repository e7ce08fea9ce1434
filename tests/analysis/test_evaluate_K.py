"""`main evaluate --likelihood=K` end to end, on tiny runs of the recipes of 2015."""

import json
import math
import pathlib

import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.data import entropies
from diffusion_jax.runs import trained

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = pathlib.Path(__file__).parents[2]


def result(argv, capsys):
    assert main.run(["main", *argv]) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def a_run(name, tmp_path, capsys, *flags):
    workdir = f"--workdir={tmp_path / name}"
    quiet = ["--config.report.tensorboard=False", "--config.report.samples_every=0", *flags]
    result(["train", f"--config={ROOT}/configs/{name}.py:tiny", workdir, *quiet], capsys)
    return workdir


def test_bits(tmp_path, capsys):
    """Without training, the network predicts probability 1/2 for every bit, and K is a sum of known KLs."""
    workdir = a_run("dpm2015_heartbeat", tmp_path, capsys)
    values = result(["evaluate", workdir, "--likelihood=K", "--ema=none", "--num_samples=8"], capsys)
    null = 20 * (0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))
    assert values["K_null_bits"] == pytest.approx(null, rel=1e-5) and values["K_unit"] == "bits/example"
    assert values["K_minus_null_bits"] == pytest.approx(values["K_bits"] - null, abs=1e-4)
    assert values["K_bits_per_dim"] == pytest.approx(-values["K_bits"] / 20, rel=1e-5)
    assert values["negative_entropy_x0_bits"] == pytest.approx(-math.log2(5))
    assert values["K_bits"] < values["negative_entropy_x1_bits"] < values["negative_entropy_x0_bits"]
    assert "K_note" not in values and 0 <= values["heartbeat_valid"] <= 1
    with np.load(tmp_path / "dpm2015_heartbeat/evaluation/2-none/K.npz") as file:
        curves = dict(file)
    assert len(curves["t"]) == 3 and (curves["lower_bits"] <= curves["upper_bits"]).all()
    total = values["K_entropy_xT_given_x0_bits"] - values["K_entropy_x1_given_x0_bits"] - values["K_entropy_prior_bits"]
    assert total - curves["kl_bits"].sum() == pytest.approx(values["K_bits"], abs=1e-4)
    assert (tmp_path / "dpm2015_heartbeat/evaluation/2-none/K.png").stat().st_size > 1000


def test_another_rate_than_that_of_the_data_is_noted(tmp_path, capsys):
    workdir = a_run("dpm2015_heartbeat", tmp_path, capsys, "--config.process.binomial.rate=0.5")
    values = result(["evaluate", workdir, "--likelihood=K", "--num_samples=0"], capsys)
    assert "0.5" in values["K_note"] and "0.200" in values["K_note"]


def test_learned_rates_are_frozen_when_a_run_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffusion_jax.data.entropies.POINTS", 4000)
    monkeypatch.setattr(entropies.swissroll, "__defaults__", (4000,))
    workdir = a_run("dpm2015_swissroll", tmp_path, capsys)
    run = trained.load(str(tmp_path / "dpm2015_swissroll"), ema="none")
    assert np.abs(run.params["schedule"]["perturbation"]).max() > 0  # trained
    rows = run.experiment.sampler.coefficients(None)
    assert isinstance(rows.x0_scale, np.ndarray) and rows.x0_scale.dtype == np.float64 and len(rows.x0_scale) == 3
    values = result(["evaluate", workdir, "--likelihood=K"], capsys)
    for name in ("K_bits", "K_stderr", "K_gap_bits", "negative_entropy_x0_stderr"):
        assert math.isfinite(values[name])
    assert values["K_null_bits"] == pytest.approx(-2 * 2.0471, abs=1e-3)


def test_a_chain_of_one_step_has_no_K(tmp_path, capsys):
    digits = [f"--config={ROOT}/configs/digits.py:tiny", "--config.process.num_steps=1", "--config.eval.every=0"]
    workdir = f"--workdir={tmp_path / 'one'}"
    quiet = ["--config.report.tensorboard=False", "--config.report.samples_every=0", "--config.network.name=mlp"]
    arrays = tmp_path / "vectors.npy"
    np.save(arrays, np.random.default_rng(0).integers(0, 17, (40, 5)))
    data = ["--config.data.name=arrays", f"--config.data.arrays.path={arrays}", "--config.data.arrays.levels=17"]
    result(["train", *digits, workdir, *quiet, *data, "--config.eval.svm=False"], capsys)
    assert main.run(["main", "evaluate", workdir, "--likelihood=K", "--num_samples=0"]) == 2
    assert "process.num_steps" in capsys.readouterr().err


def test_values_that_are_not_bits_are_refused(tmp_path, capsys):
    np.save(tmp_path / "three.npy", np.array([[0, 1, 2], [1, 0, 0]]))
    flags = ["--config.data.name=arrays", f"--config.data.arrays.path={tmp_path / 'three.npy'}"]
    argv = [
        "main",
        "train",
        f"--config={ROOT}/configs/dpm2015_heartbeat.py:tiny",
        f"--workdir={tmp_path / 'run'}",
        *flags,
    ]
    assert main.run([*argv, "--config.data.arrays.levels=2"]) == 2
    assert "(0, 2)" in capsys.readouterr().err
    assert main.run(argv) == 2
    assert "data.levels" in capsys.readouterr().err
