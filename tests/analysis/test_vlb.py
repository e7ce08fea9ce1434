"""`main evaluate --likelihood=vlb` of trained models of levels, on data whose information is known."""

import json
import math

import numpy as np
import pytest

from diffusion_jax import main

pytestmark = pytest.mark.usefixtures("one_device")

PHASES = np.array([[(i + phase) % 3 for i in range(6)] for phase in range(3)], np.uint8)
"""A heartbeat of three levels: three sequences, log2(3) bits for six values."""
NETWORK = {
    "network.name": "mlp",
    "network.mlp.width": 64,
    "network.mlp.depth": 2,
    "optimizer.learning_rate": 3e-3,
    "optimizer.warmup_steps": 20,
    "ema.decays": 0.95,
    "ema.ramp": 0,
    "train_steps": 300,
    "batch_size": 96,
    "times.name": "low_discrepancy",
}
COMMON = {"process.name": "categorical", "prediction.target": "x0", "prediction.variance": "fixed_small"}
MASKED = {
    "process.categorical.noise": "absorbing",
    "process.num_steps": 0,
    "schedule.name": "polynomial",
    "loss.name": "masked",
    "network.conditioning": "time",
    "bound.num_steps": 200,
    "sampler.num_steps": 100,
}
UNIFORM = {"process.num_steps": 100, "schedule.name": "harmonic", "loss.name": "vlb"}


@pytest.mark.slow
@pytest.mark.parametrize("own", [MASKED, UNIFORM], ids=["absorbing", "uniform"])
def test_a_model_of_levels_learns_their_information(own, tmp_path, capsys):
    np.save(tmp_path / "train.npy", PHASES[np.arange(300) % 3])
    np.save(tmp_path / "heldout.npy", PHASES[np.arange(600) % 3])
    data = {"data.name": "arrays", "data.arrays.levels": 3}
    data |= {
        f"data.arrays.{key}": tmp_path / f"{name}.npy" for key, name in (("path", "train"), ("heldout", "heldout"))
    }
    quiet = {"report.tensorboard": False, "report.samples_every": 0, "eval.every": 0, "checkpoint.every": 1000}
    keys = {**data, **COMMON, **NETWORK, **quiet, **own, "bound.clip_x0": False}
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    workdir = f"--workdir={tmp_path / 'run'}"

    def result(*argv):
        assert main.run(["main", *argv]) == 0
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    result("train", "--config=toy2d", workdir, *flags)
    values = result("evaluate", workdir, "--likelihood=vlb", "--num_samples=0")
    truth, noise = math.log2(3) / 6, 4 * values["bits_per_dim_stderr"]
    assert truth - noise < values["bits_per_dim"] < 1.5 * truth + noise
    assert values["prior_bits_per_dim"] == pytest.approx(0, abs=1e-6)
    result("sample", workdir, "--num_samples=200", f"--out={tmp_path / 'samples.npz'}")
    with np.load(tmp_path / "samples.npz") as file:
        samples = file["samples"]
    assert samples.max() == 2 and (samples[:, None] == PHASES).all(2).any(1).mean() > 0.7
