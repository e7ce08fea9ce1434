"""`main sample`: samples depend on their seeds alone, and on the weights and the sampler that flags choose."""

import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusion_jax.cli import sample
from diffusion_jax.runs import pictures, trained


def test_a_sample_depends_on_its_seed_alone(draw):
    """Neither how many are drawn nor the place among them changes a byte (4 devices x tile 4: two calls here)."""
    result, many, seeds = draw("--num_samples=20", "--seed=5")
    assert many.shape == (20, 8, 8, 1) and many.dtype == np.uint8 and seeds.dtype.kind == "i"
    assert result["step"] == 2 and result["network_calls"] == 4
    _, few, _ = draw("--num_samples=3", "--seed=12")
    np.testing.assert_array_equal(few, many[7:10])
    assert len(np.unique(many.reshape(20, -1), axis=0)) == 20


def test_weights_and_sampler_can_be_chosen(draw):
    flags = ["--num_samples=2", "--sampler.clip_x0=False"]
    _, default, _ = draw(*flags)
    _, first, _ = draw(*flags, "--ema=0.9", "--step=2")
    np.testing.assert_array_equal(first, default)
    result, other, _ = draw(*flags, "--ema=none", "--step", "1", "--sampler.num_steps", "1")
    assert result["step"] == 1 and result["network_calls"] == 1 and np.any(other != default)


def test_a_run_has_the_chosen_weights_and_sampler(workdir):
    runs = {ema: trained.load(workdir, ema=ema, sampler={"num_steps": 2}) for ema in ("", "0.9", "0.5", "none")}
    weights = {ema: np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.params)]) for ema, run in runs.items()}
    np.testing.assert_array_equal(weights[""], weights["0.9"])
    for one, other in (("0.9", "0.5"), ("0.5", "none"), ("0.9", "none")):
        assert np.abs(weights[one] - weights[other]).max() > 0
    assert len(runs[""].experiment.sampler.coefficients(runs[""].params).at.t) == 2
    assert [trained.load(workdir, step=step).step for step in ("2", "newest")] == [2, 2]
    assert trained.load(workdir, step="best").step in (1, 2)
    earlier = jax.tree.leaves(trained.load(workdir, step=1, ema="none").params)
    assert any(np.any(a != b) for a, b in zip(earlier, jax.tree.leaves(runs["none"].params), strict=True))


def test_devices_change_no_byte_and_tiles_change_rounding_only(draw, workdir, tmp_path):
    """Four devices here, one in a process of its own."""
    flags = ["--num_samples=20", "--seed=5"]
    _, four, _ = draw(*flags)
    env = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=1")}
    out = tmp_path / "one.npz"
    argv = [sys.executable, "-m", "diffusion_jax.main", "sample", f"--workdir={workdir}", f"--out={out}", *flags]
    subprocess.run(argv, check=True, env=env, capture_output=True)
    with np.load(out) as file:
        np.testing.assert_array_equal(file["samples"], four)
    _, tiled, _ = draw(*flags, "--sampler.tile=8")
    differing = np.abs(tiled.astype(int) - four) > 0
    assert differing.mean() <= 1e-3 and np.abs(tiled.astype(int) - four).max() <= 1


def test_damage_is_found_unless_nothing_is_verified(command, workdir, tmp_path):
    copy, out = tmp_path / "copy", tmp_path / "x.npz"
    shutil.copytree(workdir, copy)
    damaged = copy / "checkpoints" / "2" / "config" / "metadata"
    damaged.write_text(damaged.read_text() + " ")
    for flags, code in (([], 2), (["--verify=false"], 0), (["--noverify"], 0), (["--verify", "true"], 2)):
        done = command("sample", f"--workdir={copy}", f"--out={out}", "--num_samples=1", *flags)
        assert done.code == code and out.exists() == (code == 0)
        assert code == 0 or str(copy) in done.err[-1]
        out.unlink(missing_ok=True)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_layout_that_does_not_fit_is_refused_before_anything_is_drawn(channels, command, tmp_path, monkeypatch):
    from diffusion_jax import config as configs

    config = configs.load("digits:tiny")
    config.data.update(shape=(8, 8, channels), levels=256)
    run = trained.Run("w", 1, "none", config, None, None)
    drawn = []

    def draw(*arguments):
        drawn.append(arguments)
        raise ValueError("drawn")

    monkeypatch.setattr(trained, "load", lambda *_, **__: run)
    monkeypatch.setattr(trained, "draw", draw)
    done = command("sample", "--workdir=w", "--layout=openai", f"--out={tmp_path / 'x.npz'}")
    assert done.code == 2 and bool(drawn) == (channels != 4)
    assert channels != 4 or "--layout" in done.err[-1]


@pytest.mark.parametrize("labels", [[1, 0, 1], None])
def test_the_picture_names_the_classes(labels, command, tmp_path, monkeypatch):
    from diffusion_jax import config as configs

    config, given = configs.load("digits:tiny"), []
    config.data.update(shape=(8, 8, 1), levels=17, classes=2, class_names=("cat", "dog"))
    run = trained.Run("w", 1, "none", config, None, None)
    found = labels if labels is None else np.array(labels)
    monkeypatch.setattr(trained, "load", lambda *_, **__: run)
    monkeypatch.setattr(trained, "draw", lambda *_: (np.arange(3), np.zeros((3, 8, 8, 1), np.uint8)))
    monkeypatch.setattr(trained, "labels", lambda *_: found)
    monkeypatch.setattr(trained, "network_calls", lambda _: 1)
    monkeypatch.setattr(pictures, "save_png", lambda *arguments: given.append(arguments))
    for layout in ("plain", "openai"):
        flags = [f"--layout={layout}", "--pictured=2", f"--out={tmp_path / 'x.npz'}"]
        done = command("sample", "--workdir=w", *flags)
        assert done.code == 0, done.err
        assert len(given[-1][1]) == 2 and list(given[-1][3]) == (["dog", "cat"] if labels else [])


def test_a_class_has_a_number_and_may_have_a_name():
    names = ("cat", "dog", "0")
    assert [sample.class_number(label, names) for label in ("", "dog", "1", "7", "0")] == [None, 1, 1, 7, 2]
    assert sample.class_number("3", ()) == 3
    for label, known in (("dgo", names), ("dog", ()), ("-1", names), ("1.0", ())):
        with pytest.raises(ValueError, match=f"--label={label}"):
            sample.class_number(label, known)
