"""The command line: one JSON line on standard output; bad input is one line on standard error and exit code 2."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import arguments, commands, main
from diffusion_jax.runs import trained
from diffusion_jax.training import checkpoints

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished tiny run with two averages and two checkpoints."""
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        flags = ["--config.report.tensorboard=False", "--config.ema.decays=(0.9,0.5)", "--config.eval.every=1"]
        flags += ["--config.report.samples_every=0"]
        assert main.run(["main", "train", "--config=configs/digits.py:tiny", f"--workdir={path}", *flags]) == 0
    return path


def run(capsys, *argv):
    """Exit code, standard output as lines, standard error as lines."""
    code = main.run(["main", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def draw(capsys, workdir, out, *flags):
    code, lines, errors = run(capsys, "sample", f"--workdir={workdir}", f"--out={out}", *flags)
    assert code == 0, errors
    with np.load(out, allow_pickle=False) as file:
        return json.loads(lines[-1]), file["samples"], file["seeds"]


def test_a_sample_depends_on_its_seed_alone(workdir, tmp_path, capsys):
    """Neither how many are asked for nor the place among them changes a byte (4 devices x tile 4: two calls here)."""
    result, many, seeds = draw(capsys, workdir, tmp_path / "a.npz", "--num_samples=20", "--seed=5")
    assert many.shape == (20, 8, 8, 1) and many.dtype == np.uint8 and seeds.dtype.kind == "i"
    assert result["step"] == 2 and result["network_calls"] == 4
    _, few, _ = draw(capsys, workdir, tmp_path / "b.npz", "--num_samples=3", "--seed=12")
    np.testing.assert_array_equal(few, many[7:10])
    assert len(np.unique(many.reshape(20, -1), axis=0)) == 20


def test_weights_and_sampler_can_be_chosen(workdir, tmp_path, capsys):
    flags = ["--num_samples=2", "--sampler.clip_x0=False"]
    _, default, _ = draw(capsys, workdir, tmp_path / "default.npz", *flags)
    _, first, _ = draw(capsys, workdir, tmp_path / "first.npz", *flags, "--ema=0.9", "--step=2")
    np.testing.assert_array_equal(first, default)
    result, other, _ = draw(
        capsys, workdir, tmp_path / "one.npz", *flags, "--ema=none", "--step=1", "--sampler.num_steps=1"
    )
    assert result["step"] == 1 and result["network_calls"] == 1 and np.any(other != default)


def test_a_run_has_the_weights_and_the_sampler_that_are_asked_for(workdir):
    runs = {ema: trained.load(workdir, ema=ema, sampler={"num_steps": 2}) for ema in ("", "0.9", "0.5", "none")}
    weights = {ema: np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.params)]) for ema, run in runs.items()}
    np.testing.assert_array_equal(weights[""], weights["0.9"])
    for one, other in (("0.9", "0.5"), ("0.5", "none"), ("0.9", "none")):
        assert np.abs(weights[one] - weights[other]).max() > 0
    assert len(runs[""].experiment.sampler.rows(runs[""].params).at.t) == 2
    assert [trained.load(workdir, step=step).step for step in ("2", "newest")] == [2, 2]
    assert trained.load(workdir, step="best").step in (1, 2)
    earlier = jax.tree.leaves(trained.load(workdir, step=1, ema="none").params)
    assert any(np.any(a != b) for a, b in zip(earlier, jax.tree.leaves(runs["none"].params), strict=True))


def test_samples_are_the_same_on_one_device_and_another_tile_changes_rounding_only(workdir, tmp_path, capsys):
    """Four devices here, one in a process of its own: not a byte differs."""
    flags = ["--num_samples=20", "--seed=5"]
    _, four, _ = draw(capsys, workdir, tmp_path / "four.npz", *flags)
    env = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=1")}
    argv = [
        sys.executable,
        "-m",
        "diffusion_jax.main",
        "sample",
        f"--workdir={workdir}",
        f"--out={tmp_path / 'one.npz'}",
    ]
    subprocess.run([*argv, *flags], check=True, env=env, cwd=ROOT, capture_output=True)
    with np.load(tmp_path / "one.npz") as file:
        np.testing.assert_array_equal(file["samples"], four)
    _, tiled, _ = draw(capsys, workdir, tmp_path / "tiled.npz", *flags, "--sampler.tile=8")
    differing = np.abs(tiled.astype(int) - four) > 0
    assert differing.mean() <= 1e-3 and np.abs(tiled.astype(int) - four).max() <= 1


def test_evaluate_names_every_figure(workdir, capsys):
    code, lines, _ = run(capsys, "evaluate", f"--workdir={workdir}")
    figures = json.loads(lines[-1])
    assert code == 0 and figures["step"] == 2 and figures["num_samples"] == 8
    assert 0 < figures["heldout_loss"] < 10
    assert {"svm_confidence_ratio", "svm_rarest_class", "svm_confidence_heldout"} <= set(figures)
    assert figures["frechet_pixels"] > figures["frechet_pixels_heldout"] > 0


def test_evaluate_repeats_the_loss_of_the_training_run(workdir, capsys):
    from diffusion_jax.runs import metric_log

    _, lines, _ = run(capsys, "evaluate", f"--workdir={workdir}")
    assert json.loads(lines[-1])["heldout_loss"] == pytest.approx(metric_log.last(workdir, "heldout_loss"), rel=1e-5)


def test_evaluate_gives_the_bound_term_by_term(workdir, capsys):
    code, lines, _ = run(capsys, "evaluate", f"--workdir={workdir}", "--likelihood=vlb", "--num_samples=0")
    figures = json.loads(lines[-1])
    whole = figures["rate_bits_per_dim"] + figures["distortion_bits_per_dim"]
    assert code == 0 and figures["bits_per_dim"] == pytest.approx(whole, rel=1e-12)
    assert figures["baseline_bits_per_dim"] > 2 and figures["decoder"] == "bins"
    assert not any(name.startswith("svm") for name in figures)
    directory = workdir / "evaluation" / "2-0.9"
    with np.load(directory / "vlb.npz") as file:
        assert file["terms_nats"].shape == (16, 5) and file["mse"].shape == (16, 4)
        total = file["terms_nats"].astype(np.float64).sum(1).mean() / 64 / np.log(2)
    assert total == pytest.approx(figures["bits_per_dim"], rel=1e-6)
    assert json.loads((directory / "figures.json").read_text())["bits_per_dim"] == figures["bits_per_dim"]
    assert (directory / "vlb.png").exists() and (directory / "rate_distortion.png").exists()


def test_show_draws_what_happens_between_noise_and_data(workdir, capsys):
    code, lines, errors = run(capsys, "show", f"--workdir={workdir}", "--num_samples=3")
    assert code == 0, errors
    shown = json.loads(lines[-1])
    with np.load(workdir / "evaluation" / "2-0.9" / "progressive.npz") as file:
        for name in ("progressive_decoding", "progressive_generation", "shared_latents", "interpolation"):
            assert pathlib.Path(shown[name]).exists() and file[name].shape[1:] == (3, 8, 8, 1)


def test_recipes_are_found_from_anywhere(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "describe", f"--config={ROOT / 'configs' / 'toy2d.py'}:tiny")[0] == 0


def test_describe_needs_no_data(capsys):
    code, lines, _ = run(capsys, "describe", "--config=configs/cifar10_ddpm.py:tiny")
    assert code == 0 and json.loads(lines[-1])["parameters"] > 0
    assert any("schedule" in line for line in lines)


def test_help(capsys):
    assert run(capsys, "--help")[0] == 0
    assert run(capsys)[0] == 2


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_each_command_tells_its_flags(command, capsys):
    code, lines, _ = run(capsys, command, "--help")
    assert code == 0 and lines[0].startswith(f"{command}: ")
    flags = [line.split()[0] for line in lines[1:] if line.startswith("    --")]
    assert len(set(flags)) == len(flags) > 5
    assert ("--sampler.KEY" in flags) == (command in arguments.READ_A_RUN and command != "export")
    assert ("--config.KEY" in flags) == (command in arguments.TAKE_A_CONFIG)
    assert all(line.split()[1:] for line in lines[1:] if line.startswith("    --"))


# Bad input. {workdir} is the finished run, {tmp} an empty folder.

TRAIN = ["train", "--config=configs/digits.py:tiny", "--workdir={tmp}/new"]
BAD = [
    (["trian"], "'trian' is not a command; use one of train, sample"),
    (["train", "--workdir={tmp}/new"], "--config is missing"),
    (["train", "--config=configs/digits.py:tiny"], "--workdir is missing"),
    (["train", "--config=configs/nothing.py", "--workdir={tmp}/new"], ": there is no file configs/nothing.py"),
    (["train", "--config={tmp}/broken.py", "--workdir={tmp}/new"], "--config cannot be read"),
    (["train", "--config=configs/digits.py:tony", "--workdir={tmp}/new"], "'tony'"),
    ([*TRAIN, "--config.optimiser.b1=0.5"], "--config.optimiser.b1: there is no key 'optimiser'. Did you mean \"opti"),
    ([*TRAIN, "--sampler.name=ddim"], "flag 'sampler.name'; try --config.sampler.name"),
    (["sample", "--workdir={workdir}", "--config.sampler.num_steps=3"], "the config of a run stands"),
    (["sample", "--workdir={workdir}", "--sampler.ddim.etta=1"], "--sampler.ddim.etta: there is no key 'etta'. Did"),
    (["sample", "--workdir={workdir}", "--sampler=ddim"], "--sampler=ddim: it is a group; write --sampler.KEY=VALUE"),
    ([*TRAIN, "--config.batch_size=many"], "flag --config.batch_size=many"),
    ([*TRAIN, "--config.batch_size=7"], "batch_size=7"),
    ([*TRAIN, "--config.parallel=pmapp"], "parallel='pmapp'"),
    ([*TRAIN, "--config.schedule.name=cosin"], "schedule.name='cosin'"),
    ([*TRAIN, "--config.network.unet.attention=(5,)"], "attention at height 5 never occurs"),
    ([*TRAIN, "--config.network.unet.multipliers=(1,1,1,1,1)"], "height 8 cannot be halved 4 times"),
    ([*TRAIN, "--config.data.name=digit"], "data.name='digit'"),
    ([*TRAIN, "--config.data.shape=(9,9,1)"], "data.shape: the config says (9, 9, 1)"),
    ([*TRAIN, "--config.data.name=folder", "--config.data.folder.path={tmp}/empty"], "{tmp}/empty: no images"),
    ([*TRAIN, "--config.data.name=folder", "--config.data.folder.path={tmp}/mixed"], "{tmp}/mixed"),
    ([*TRAIN, "--config.data.name=arrays", "--config.data.arrays.path={tmp}/nan.npz"], "nan.npz"),
    ([*TRAIN, "--config.data.name=arrays", "--config.data.arrays.path={tmp}/objects.npz"], "never unpickled"),
    ([*TRAIN, "--config.data.name=tfds", "--config.data.tfds.dataset=cifar10", "--config.data.tfds.data_dir={tmp}"],
     "diffusion_jax.main prepare"),
    ([*TRAIN[:2], "--workdir={tmp}/file"], "is a file; choose another --workdir"),
    ([*TRAIN[:2], "--workdir={workdir}", "--config.seed=3", "--config.train_steps=9"], "seed: stored 0, asked 3"),
    ([*TRAIN, "--config.require_accelerator=True"], "JAX sees only the CPU"),
    ([*TRAIN, "now"], "'now' is not a flag"),
    (["train", "--config={tmp}/name_error.py", "--workdir={tmp}/new"], "--config cannot be read: NameError"),
    (["describe", "--config=configs/folder.py"], "data/images"),
    (["evaluate", "--workdir={workdir}", "--likelihood=odd"], "--likelihood='odd'"),
    (["evaluate", "--workdir={workdir}", "--likelihood=vlb", "--bound.decoder=bin"], "bound.decoder"),
    (["evaluate", "--workdir={workdir}", "--likelihood=vlb", "--bound.num_steps=9"], "the chain has only 4"),
    (["sample", "--workdir={workdir}", "--sampler.levels=(5,)", "--out={tmp}/x.npz"], "5 is not among them"),
    (["show", "--workdir={workdir}", "--num_samples=1"], "--num_samples=1 must be 2 to 297"),
    (["show", "--workdir={workdir}", "--num_samples=500"], "--num_samples=500 must be 2 to 297"),
    (["evaluate", "--workdir={workdir}", "--num_samples=1"], "--num_samples=1 must be 0 (none), 2 or more"),
    (["sample", "--workdir={workdir}", "--pictured=0", "--out={tmp}/x.npz"], "--pictured=0 must be at least 1"),
    (["describe", "--config="], "--config is missing"),
    (["sample", "--out={tmp}/x.npz"], "--workdir is missing"),
    (["sample", "--workdir={tmp}/empty", "--out={tmp}/x.npz"], "holds no checkpoint; train it first"),
    (["sample", "--workdir={workdir}/checkpoints/2", "--out={tmp}/x.npz"], "say --workdir={workdir} --step=2"),
    (["sample", "--workdir={workdir}", "--step=7", "--out={tmp}/x.npz"], "step 7 is not kept"),
    (["sample", "--workdir={workdir}", "--ema=0.7", "--out={tmp}/x.npz"], "ema='0.7' is not in"),
    (["sample", "--workdir={workdir}", "--sampler.num_step=3", "--out={tmp}/x.npz"], "Did you mean \"num_steps\""),
    (["sample", "--workdir={workdir}", "--sampler.num_steps=many", "--out={tmp}/x.npz"], "--sampler.num_steps=many"),
    (["sample", "--workdir={workdir}", "--sampler.num_steps=5", "--out={tmp}/x.npz"], "the chain has only 4"),
    (["sample", "--workdir={workdir}", "--num_samples=0", "--out={tmp}/x.npz"], "--num_samples=0 must be at least 1"),
    (["sample", "--workdir={workdir}", "--seed=-1", "--out={tmp}/x.npz"], "--seed=-1 must be at least 0"),
    (["sample", "--workdir={workdir}", "--out={tmp}/x.png"], "must end in .npz"),
    (["sample", "--workdir={workdir}", "--out={tmp}/no/x.npz"], "does not exist"),
]  # fmt: skip


@pytest.fixture
def bad_things(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "mixed" / f"{i}.png")
    (tmp_path / "mixed" / "3.png").write_bytes(b"not an image")
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "name_error.py").write_text("def get_config():\n    return nothing\n")
    np.savez(tmp_path / "nan.npz", x=np.full((4, 2), np.nan, np.float32))
    np.savez(tmp_path / "objects.npz", x=np.array([[1], [None]], object))
    return tmp_path


@pytest.mark.parametrize(("argv", "message"), BAD, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_input_is_one_line(argv, message, workdir, bad_things, capsys):
    places = {"workdir": workdir, "tmp": bad_things}
    before = checkpoints.steps(workdir)
    code, lines, errors = run(capsys, *(word.format(**places) for word in argv))
    complaints = [line for line in errors if line.startswith("error: ")]
    assert code == 2 and not lines and len(complaints) == 1 and errors[-1] == complaints[0]
    assert message.format(**places) in complaints[0]
    assert not any(noise in complaints[0] for noise in ("Traceback", "^^^", "\\n"))
    assert checkpoints.steps(workdir) == before
    assert not (bad_things / "x.npz").exists() and not list(bad_things.glob(".x.npz*"))
    assert not (bad_things / "new").exists()


def test_a_config_of_another_version_is_told(workdir, tmp_path, capsys):
    """A key that is unknown here is named; a section that is missing is at its defaults."""
    for n, change in enumerate((lambda c: c["network"]["unet"].update(colour=3), lambda c: c.pop("guard"))):
        copy = tmp_path / str(n)
        shutil.copytree(workdir, copy)
        path = copy / "checkpoints" / "2" / "config" / "metadata"
        stored = json.loads(path.read_text())
        change(stored["config"])
        path.write_text(json.dumps(stored))
        (copy / "checkpoints" / "2" / "manifest.json").unlink()
        code, _, errors = run(capsys, "sample", f"--workdir={copy}", f"--out={tmp_path / 'x.npz'}")
        assert code == (2 if n == 0 else 0) and (tmp_path / "x.npz").exists() == (n == 1)
        assert n == 1 or "network.unet.colour" in errors[-1]


def test_a_damaged_checkpoint_is_told(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "copy")
    largest = max(
        (tmp_path / "copy" / "checkpoints" / "2" / "state").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    code, _, errors = run(capsys, "sample", f"--workdir={tmp_path / 'copy'}", f"--out={tmp_path / 'x.npz'}")
    assert code == 2 and "is damaged" in errors[-1]


def test_compiled_programs_are_kept_where_nobody_chose_another_place(tmp_path, monkeypatch):
    name = "JAX_COMPILATION_CACHE_DIR"
    monkeypatch.setenv(name, "chosen")
    monkeypatch.setattr(main, "COMPILED", tmp_path / "home" / "compiled")
    main.keep_compiled()
    assert os.environ[name] == "chosen" and not (tmp_path / "home").exists()
    monkeypatch.delenv(name)
    main.keep_compiled()
    assert os.environ[name] == str(tmp_path / "home" / "compiled") and (tmp_path / "home" / "compiled").is_dir()
    monkeypatch.delenv(name)
    (tmp_path / "file").touch()
    monkeypatch.setattr(main, "COMPILED", tmp_path / "file" / "compiled")
    main.keep_compiled()
    assert name not in os.environ
