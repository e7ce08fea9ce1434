"""Weights from elsewhere and back, by the command line."""

import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import saved_models
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.experiment import wiring
from diffusion_jax.interop import diffusers, diffusers_folder, diffusers_options, exchange
from diffusion_jax.networks.unet import UNet
from diffusion_jax.training import checkpoints, loop

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = pathlib.Path(__file__).parents[2]
SAME = functools.partial(np.testing.assert_array_equal, strict=True)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(capsys, *argv):
    """The results of a command that succeeds."""
    code = main.run(["main", *map(str, argv)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])


def bring(capsys, folder, workdir, *flags):
    return run(capsys, "import", "--from=diffusers", f"--path={folder}", f"--workdir={workdir}", *flags)


def of(workdir):
    """(config, experiment, parameters) of a workdir."""
    config = ConfigDict(checkpoints.read_config(workdir))
    return config, wiring.build(config), checkpoints.restore_weights(workdir)


@pytest.mark.parametrize("name", saved_models.MODELS)
def test_imported_models_give_the_outputs_of_diffusers(name, tmp_path, capsys):
    results = bring(capsys, saved_models.write(tmp_path / "model", name), tmp_path / "run")
    _, experiment, params = of(tmp_path / "run")
    assert results["parameters"] == {"two_resolutions": 74683, "oblong": 60403, "grey": 86121}[name]
    assert results["tensors"] == len(jax.tree.leaves(params)) and results["scheduler"] is None
    golden = saved_models.golden()
    x, time, output = (golden[f"{name}/{part}"] for part in ("x", "time", "output"))
    y = jax.jit(experiment.network.apply)({"params": params["net"]}, x, time)
    assert np.std(output) > 0.4
    np.testing.assert_allclose(y, output, rtol=0, atol=3e-5)  # 2e-6 is usual in float32


@pytest.mark.parametrize("name", saved_models.MODELS)
def test_import_then_export_gives_the_same_files(name, tmp_path, capsys):
    folder = saved_models.write(tmp_path / "model", name, chain="scaled_linear")
    assert bring(capsys, folder, tmp_path / "run")["scheduler"] == str(folder / "scheduler_config.json")
    results = run(capsys, "export", "--to=diffusers", f"--workdir={tmp_path / 'run'}", f"--path={tmp_path / 'out'}")
    assert results["step"] == 0 and results["ema"] == "0.9999"
    before, after = (safetensors.numpy.load_file(f / diffusers_folder.WEIGHTS) for f in (folder, tmp_path / "out"))
    assert before.keys() == after.keys() and len(before) == results["tensors"]
    for key in before:
        SAME(after[key], before[key])
    for file in ("config.json", "scheduler_config.json"):
        theirs, ours = (json.loads((f / file).read_text()) for f in (folder, tmp_path / "out"))
        assert ours == {key: theirs[key] for key in ours}


def test_export_then_import_is_the_identity(tmp_path, capsys):
    """Parameters and keys of the config are the same, for a model of this package and each of its averages."""
    config = configs.load("cifar10_ddpm:tiny")
    config.ema.decays = (0.9, 0.5)
    config.network.unet.groups = 4
    experiment = wiring.build(config)
    drawn = [saved_models.drawn_params(experiment.network, (8, 8, 3), seed) for seed in (0, 1)]
    exchange.start(tmp_path / "run", config, experiment, *drawn)
    for ema, expected in (("none", drawn[0]), ("0.5", drawn[1]), ("", drawn[1])):
        out, again = tmp_path / f"out{ema}", tmp_path / f"again{ema}"
        run(capsys, "export", "--to=diffusers", f"--workdir={tmp_path / 'run'}", f"--path={out}", f"--ema={ema}")
        bring(capsys, out, again, "--config=configs/cifar10_ddpm.py:tiny", "--config.ema.decays=(0.9,0.5)")
        stored, _, params = of(again)
        jax.tree.map(SAME, params, {"net": expected})
        jax.tree.map(SAME, checkpoints.restore_weights(again, ema="0.5"), params)
        assert stored.to_dict() == config.to_dict()


def test_an_exported_run_comes_back_with_the_levels_and_classes_of_its_data(tmp_path, capsys):
    """It is evaluated and continued, although the model says neither."""
    ours, theirs, folder = (str(tmp_path / name) for name in ("ours", "theirs", "folder"))
    quiet = ["--config.report.tensorboard=False", "--config.report.samples_every=0"]
    run(
        capsys,
        "train",
        "--config=digits:tiny",
        f"--workdir={ours}",
        "--config.train_steps=2",
        "--config.network.unet.groups=4",
        *quiet,
    )
    run(capsys, "export", "--to=diffusers", f"--workdir={ours}", f"--path={folder}", "--ema=none")
    bring(capsys, folder, theirs, "--config=digits:tiny", *quiet)
    assert "heldout_loss" in run(capsys, "evaluate", f"--workdir={theirs}", "--num_samples=0")
    assert run(capsys, "train", f"--workdir={theirs}", "--config.train_steps=1")["step"] == 1


def test_the_recipe_of_the_paper_comes_back_as_it_is(tmp_path, capsys):
    """norm_num_groups=32 is the rule at these sizes, so a run of the recipe goes on from the published weights."""
    config = configs.load("cifar10_ddpm")
    described = diffusers_options.describe_unet(wiring.build(config).network, (32, 32, 3))
    assert described["norm_num_groups"] == 32 and described["attention_head_dim"] is None
    (tmp_path / "config.json").write_text(json.dumps(described))
    unet, _ = diffusers_options.read_unet(tmp_path)
    assert {name: getattr(unet, name) for name in exchange.TAKEN} == {
        name: config.network.unet[name] for name in exchange.TAKEN
    }


@pytest.mark.slow
def test_an_imported_model_samples_evaluates_and_trains(tmp_path, capsys):
    net, shape = UNet(1, channels=4, multipliers=(1,), blocks=1, attention=(), groups=2), (8, 6, 1)
    tensors = diffusers.from_flax(saved_models.drawn_params(net, shape), net, shape)
    chain = json.loads(str(saved_models.golden()["linear/chain"]))
    diffusers_folder.write(tmp_path / "model", diffusers_options.describe_unet(net, shape), chain, tensors)
    np.savez(tmp_path / "x.npz", x=np.random.RandomState(0).randint(0, 256, (24, *shape), np.uint8))
    flags = ["--config=configs/digits.py:tiny", "--config.data.name=arrays", "--config.eval.svm=False"]
    flags += [f"--config.data.arrays.path={tmp_path / 'x.npz'}", "--config.report.tensorboard=False"]
    flags += ["--config.report.samples_every=0", "--config.eval.every=0"]
    workdir = tmp_path / "run"
    bring(capsys, tmp_path / "model", workdir, *flags)
    stored, _, params = of(workdir)
    assert stored.data.shape == shape and stored.data.levels == 256 and stored.process.num_steps == 50
    assert stored.schedule.linear.beta_end == 0.1 and stored.prediction.variance == "fixed_large"

    out = tmp_path / "samples.npz"
    sampler = ["--sampler.num_steps=2", "--num_samples=2"]
    assert run(capsys, "sample", f"--workdir={workdir}", f"--out={out}", *sampler)["step"] == 0
    with np.load(out) as file:
        assert file["samples"].shape == (2, *shape) and file["samples"].dtype == np.uint8
    assert 0 < run(capsys, "evaluate", f"--workdir={workdir}")["heldout_loss"] < 100

    assert loop.train(stored, str(workdir))["step"] == stored.train_steps == 2
    trained = checkpoints.restore_weights(workdir)
    moved = [np.max(np.abs(a - b)) for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(params), strict=True)]
    assert 0 < max(moved) < 0.01  # two steps of Adam from the imported weights


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_model_with_classes_and_a_learned_variance_comes_and_goes(dropout, tmp_path, capsys):
    """With label dropout its last class means "no label"; without, there is no such row in diffusers."""
    with np.load(saved_models.GOLDEN / "diffusers_options.npz") as file:
        described = json.loads(str(file["classes/config"]))
    (tmp_path / "config.json").write_text(json.dumps(described))
    unet, shape = diffusers_options.read_unet(tmp_path)
    tensors = diffusers.from_flax(saved_models.drawn_params(unet, shape), unet, shape)
    tensors[diffusers.LABELS] = tensors[diffusers.LABELS][:5]
    chain = json.loads(str(saved_models.golden()["linear/chain"])) | {"variance_type": "learned_range"}
    diffusers_folder.write(tmp_path / "model", described, chain, tensors)
    bring(capsys, tmp_path / "model", tmp_path / "run", f"--config.network.label_dropout={dropout}")
    config, experiment, params = of(tmp_path / "run")
    classes = 5 - (dropout > 0)
    assert config.network.conditional and config.data.classes == experiment.network.num_classes == classes
    assert config.prediction.variance == "learned_range" and config.loss.name == "hybrid"
    SAME(params["net"]["temb"]["label"]["embedding"][:5], tensors[diffusers.LABELS])
    assert len(params["net"]["temb"]["label"]["embedding"]) == classes + 1
    run(capsys, "export", "--to=diffusers", f"--workdir={tmp_path / 'run'}", f"--path={tmp_path / 'out'}")
    after = safetensors.numpy.load_file(tmp_path / "out" / diffusers_folder.WEIGHTS)
    assert after.keys() == tensors.keys()
    for key in tensors:
        SAME(after[key], tensors[key])
    for file, theirs in (("config.json", described), ("scheduler_config.json", chain)):
        ours = json.loads((tmp_path / "out" / file).read_text())
        assert ours == {key: theirs[key] for key in ours}


def test_a_checkpoint_of_tensorflow_is_imported(tmp_path, capsys):
    flags = ["--config=configs/cifar10_ddpm.py:tiny", "--config.network.unet.channels=32"]
    described = configs.load("cifar10_ddpm:tiny")
    described.network.unet.update(channels=32, groups=32)
    net = wiring.build(described).network
    params, averages = (saved_models.drawn_params(net, (8, 8, 3), seed) for seed in (0, 1))
    prefix = saved_models.write_tf1(tmp_path / "model.ckpt-7", saved_models.tf1_variables(params, averages))
    workdir = tmp_path / "run"
    results = run(capsys, "import", "--from=ddpm_tf1", f"--path={prefix}", f"--workdir={workdir}", *flags)
    assert results["averaged"] and results["tensors"] == len(jax.tree.leaves(params))
    config, _, found = of(workdir)
    assert config.network.unet.groups == 32  # Ho's code always has 32, the rule has fewer here
    jax.tree.map(SAME, found, {"net": params})
    jax.tree.map(SAME, checkpoints.restore_weights(workdir, ema="0.9999"), {"net": averages})


# Bad input. {model} is a copy of a sound model that the case spoils, {run} a workdir with checkpoints.


def spoil(folder, case):
    weights = folder / diffusers_folder.WEIGHTS
    tensors = safetensors.numpy.load_file(weights)
    if case == "none":
        weights.unlink()
    elif case == "pickle":
        weights.rename(folder / "diffusion_pytorch_model.bin")
    elif case == "renamed pickle":
        weights.write_bytes(b"\x80\x04N.")
    elif case == "missing":
        tensors = {key: value for key, value in tensors.items() if not key.startswith("conv_")}
    elif case == "extra":
        tensors["class_embedding.weight"] = np.zeros((2, 2), np.float32)
    elif case == "misshapen":
        tensors["conv_in.bias"] = np.zeros(3, np.float32)
    elif case == "config":
        saved_models.change(folder / "config.json", act_fn="gelu", time_embedding_type="fourier")
    elif case == "not finite":
        tensors["conv_in.bias"][3] = np.nan
    elif case == "head":
        (folder / "scheduler_config.json").write_text(
            '{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}'
        )
    elif case == "scheduler":
        (folder / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    if case in ("missing", "extra", "misshapen", "not finite"):
        safetensors.numpy.save_file(tensors, weights)


IMPORT = ["import", "--from=diffusers", "--path={model}", "--workdir={new}"]
TF1 = ["import", "--from=ddpm_tf1", "--path={model}/m", "--workdir={new}"]
BAD = [
    ("none", IMPORT, "{model}"),
    ("pickle", IMPORT, "diffusion_pytorch_model.bin"),
    ("renamed pickle", IMPORT, "diffusion_pytorch_model.safetensors"),
    ("missing", IMPORT, "conv_norm_out.bias"),
    ("extra", IMPORT, "class_embedding.weight"),
    ("misshapen", IMPORT, "conv_in.bias (3,)"),
    ("config", IMPORT, 'config.json: act_fn="gelu"'),
    ("config", IMPORT, "time_embedding_type"),
    ("not finite", IMPORT, "conv_in/bias"),
    ("head", IMPORT, "out_channels"),
    ("scheduler", IMPORT, 'scheduler_config.json: _class_name="DDIMScheduler"'),
    ("", [*IMPORT[:3], "--workdir={run}"], "{run}"),
    ("", [*IMPORT[:3], "--workdir={model}/config.json"], "{model}/config.json"),
    ("", ["import", "--path={model}", "--workdir={new}"], "--from"),
    ("", ["import", "--path={model}", "--workdir={new}", "--config=configs/digits.py"], "--from"),
    ("", ["import", "--from"], "--from"),
    ("", ["import", "--from=keras", *IMPORT[2:]], "--from"),
    ("", ["import", "--from=diffusers", "--workdir={new}"], "--path"),
    ("", IMPORT[:3], "--workdir"),
    ("", ["import", "--from=diffusers", "--path={new}", "--workdir={new}"], "{new}"),
    ("", [*IMPORT, "--config=configs/none.py"], "configs/none.py"),
    ("", [*IMPORT, "--config.ema.decays=(2.0,)"], "ema.decays"),
    ("", TF1, "--config"),
    ("", [*TF1, "--config=configs/cifar10_ddpm.py"], "{model}/m.index"),
    ("", [*TF1, "--config=configs/toy2d.py"], "network.name='mlp'"),
    ("", [*TF1, "--config=configs/cifar10_ddpm.py", "--config.network.unet.heads=2"], "network.unet.heads=2"),
    ("", ["export", "--workdir={run}", "--path={new}"], "--to"),
    ("", ["export", "--to=diffusers", "--path={new}"], "--workdir"),
    ("", ["export", "--to=diffusers", "--workdir={run}"], "--path"),
    ("", ["export", "--to=diffusers", "--workdir={run}", "--path={model}"], "--path={model}"),
    ("", ["export", "--to=diffusers", "--workdir={new}", "--path={new}"], "{new}"),
    ("", ["export", "--to=diffusers", "--workdir={run}", "--path={new}", "--ema=0.5"], "--ema=0.5"),
    ("", ["export", "--to=diffusers", "--workdir={run}", "--path={new}", "--step=3"], "--step=3"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A model as diffusers saves it, and a workdir made of it."""
    path = tmp_path_factory.mktemp("sound")
    saved_models.write(path / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        argv = ["import", "--from=diffusers", f"--path={path / 'model'}", f"--workdir={path / 'run'}"]
        assert main.run(["main", *argv]) == 0
    return path


def test_an_export_names_all_obstacles_of_network_and_chain_at_once(tmp_path):
    config = configs.load("digits:tiny")
    config.data.update(shape=(8, 8, 1), levels=17)
    config.schedule.name, config.network.conditioning = "const", "logsnr"
    config.prediction.target, config.network.unet.fourier = "posterior_mean", (7, 8)
    with pytest.raises(ValueError) as caught:
        exchange.to_diffusers(config, {"net": {}}, tmp_path / "out")
    said = str(caught.value)
    for key in ("network.unet.fourier", "network.conditioning", "schedule.name", "prediction.target"):
        assert said.count(f"{key}=") == 1
    assert "\n" not in said and not (tmp_path / "out").exists()


def test_an_export_names_the_network_and_the_chain_where_neither_fits(tmp_path):
    config = configs.load("toy2d:tiny")
    config.data.update(shape=(2,), levels=0)
    config.network.conditioning = "logsnr"
    with pytest.raises(ValueError, match=r"network\.name.*network\.conditioning"):
        exchange.to_diffusers(config, {"net": {}}, tmp_path / "out")


@pytest.mark.parametrize(
    ("case", "argv", "key"), BAD, ids=[f"{i} {case} {key}" for i, (case, _, key) in enumerate(BAD)]
)
def test_bad_input_is_one_line(case, argv, key, sound, tmp_path, capsys):
    places = {"model": tmp_path / "model", "run": sound / "run", "new": tmp_path / "new"}
    shutil.copytree(sound / "model", places["model"])
    spoil(places["model"], case)
    before = {path: path.stat().st_mtime_ns for path in [*sound.rglob("*"), *tmp_path.rglob("*")]}
    code = main.run(["main", *(word.format(**places) for word in argv)])
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert code == 2 and not captured.out and len([line for line in errors if line.startswith("error: ")]) == 1
    assert errors[-1].startswith("error: ") and key.format(**places) in errors[-1]
    assert {path: path.stat().st_mtime_ns for path in [*sound.rglob("*"), *tmp_path.rglob("*")]} == before
