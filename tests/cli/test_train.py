"""`main train`: recipes by name, runs that resume, and configs of other versions."""

import json
import shutil

import pytest

from diffusion_jax.training import checkpoints, loop

QUICK = ["--config.report.tensorboard=False", "--config.report.samples_every=0", "--config.eval.every=0"]


def test_a_run_resumes_without_a_config(command, tmp_path):
    first = command("train", "--config=toy2d:tiny", f"--workdir={tmp_path}", *QUICK)
    assert first.code == 0 and first.results["step"] == 2
    more = command("train", f"--workdir={tmp_path}", "--config.train_steps", "3")
    assert more.code == 0 and more.results["step"] == 3
    again = command("train", f"--workdir={tmp_path}")
    assert again.code == 0 and again.results["finished"] and checkpoints.steps(tmp_path) == [2, 3]
    changed = command("train", f"--workdir={tmp_path}", "--config.seed=7", "--config.train_steps=4")
    assert changed.code == 2 and "seed" in changed.err[-1]


def test_a_recipe_outside_the_repository_starts_from_the_defaults(command, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from diffusion_jax import config\n\n\ndef get_config(variant):\n"
        "    c = config.load('toy2d:tiny')\n    c.batch_size = 16\n    return c\n"
    )
    monkeypatch.chdir(tmp_path)
    done = command("describe", "--config=mine.py", "--config.data.shape=(2,)")
    assert done.code == 0 and done.results["batch_per_device"] == 4


@pytest.mark.parametrize(("number", "code"), [(15, 75), (2, 130)])
def test_a_signal_has_an_exit_code(number, code, command, tmp_path, monkeypatch):
    def train(*_, **__):
        raise loop.Preempted("run", 1, number)

    monkeypatch.setattr(loop, "train", train)
    done = command("train", "--config=toy2d:tiny", f"--workdir={tmp_path}")
    assert done.code == code and done.results == {"workdir": str(tmp_path), "preempted": True}


def test_keys_of_other_versions(command, workdir, tmp_path):
    """A key that is unknown here is named; a section that is missing is at its defaults."""
    for n, change in enumerate((lambda c: c["network"]["unet"].update(colour=3), lambda c: c.pop("guard"))):
        copy, out = tmp_path / str(n), tmp_path / "x.npz"
        shutil.copytree(workdir, copy)
        path = copy / "checkpoints" / "2" / "config" / "metadata"
        stored = json.loads(path.read_text())
        change(stored["config"])
        path.write_text(json.dumps(stored))
        (copy / "checkpoints" / "2" / "manifest.json").unlink()
        done = command("sample", f"--workdir={copy}", f"--out={out}", "--num_samples=1")
        assert done.code == (2 if n == 0 else 0) and out.exists() == (n == 1)
        assert n == 1 or "network.unet.colour" in done.err[-1]
