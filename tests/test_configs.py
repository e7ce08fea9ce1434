"""Every recipe: its header, its size, and two steps of training and a sample in its tiny variant."""

import importlib
import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.analysis.description import count
from diffusion_jax.data import pipeline
from diffusion_jax.experiment import drawing, sources, wiring
from diffusion_jax.training import setup, state

ROOT = pathlib.Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
PARAMETERS = {
    "cifar10_ddpm": 35_746_307,
    "lsun_bedroom256": 113_673_219,
    "lsun_bedroom256_large": 255_677_955,
    "lsun_church256": 113_673_219,
    "lsun_cat256": 113_673_219,
    "celebahq256": 113_673_219,
    "cifar10_vp_ddpmpp": 61_804_419,
    "cifar10_vp_ddpmpp:deep": 106_632_579,
    "cifar10_vp_ddpmpp:discrete": 61_804_419,
    "cifar10_subvp_ddpmpp": 61_804_419,
    "cifar10_ve_ncsnpp": 62_758_787,
    "cifar10_ve_ncsnpp:deep": 107_586_947,
    "cifar10_edm": 55_733_891,
    "cifar10_edm:ve_cond": 56_400_643,
    "cifar10_vdm": 30_578_181,
    "cifar10_ncsn": 30_117_635,
    "cifar10_ncsnv2": 29_694_083,
}
WHOLE = ("digits", "toy2d", "dpm2015_heartbeat")
"""Those that also draw pictures and evaluate along the way, which costs the compiler: one per kind of data."""
BY_COMMAND = (*WHOLE, "folder", "digits_cond", "digits_classifier", "cifar10_vp_ddpmpp", "cifar10_vdm", "cifar10_ncsn")
"""Those that the commands train and sample, by way of a workdir: for kinds of networks. The others step and sample."""

ONLY_OTHER_DATA = (
    *("mnist_ddpm", "mnist_vlb", "fashion_dit", "fashion_vae", "fashion_gan", "fashion_latent"),
    *("lsun_church256", "lsun_cat256", "celebahq256"),
)
"""Those that are another one on other data."""


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(folder / f"{i:02}.png")
    for part in ("train", "t10k"):
        for kind, array in (("images", rng.integers(0, 256, (20, 8, 8), np.uint8)), ("labels", np.arange(20) % 10)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
            (folder / f"{part}-{kind}-idx{array.ndim}-ubyte").write_bytes(content)
    return folder


def recipe(name, variant=""):
    return configs.load(f"{name}:{variant}")


@pytest.mark.parametrize("name", RECIPES)
def test_header_has_the_command_and_the_expected_result(name):
    header = importlib.import_module(f"configs.{name}").__doc__
    for word in (f"Run:    python -m diffusion_jax.main train --config=configs/{name}.py", "\nExpect: ", "\nTime:   "):
        assert word in header


@pytest.mark.parametrize("name", RECIPES)
def test_tiny_variant_is_tiny(name):
    config = recipe(name, "tiny")
    if config.data.name in ("digits", "heartbeat", "dead_leaves"):
        config = sources.resolve(config, sources.source(config, "train"))
    if not config.data.shape:
        config.data.update(shape=(2,) if config.network.name == "mlp" else (8, 8, 3), levels=256, classes=10)
    assert count(wiring.parameters(config, wiring.build(config).network)) <= 100_000
    assert (config.process.num_steps or config.sampler.num_steps) == 4 and config.data.shape[:-1] in ((), (8, 8))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_those_of_the_paper(name):
    config = recipe(*name.split(":"))
    assert count(wiring.parameters(config, wiring.build(config).network)) == PARAMETERS[name]


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"tony.*:tiny"):
        recipe("digits", "tony")
    with pytest.raises(ValueError, match=r"tony.*:deep, :discrete"):
        recipe("cifar10_vp_ddpmpp", "tony")


def json_line(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def reads(name, images):
    """Flags that put images of the test in the place of sets that nobody can ship."""
    data = recipe(name).data
    if data.name not in ("folder", "tfds", "idx"):
        return []
    if data.name == "idx":
        return [f"--config.data.idx.path={images}"]
    channels = data.shape[-1] if data.shape else 3
    flags = [f"--config.data.folder.path={images}", "--config.data.name=folder", "--config.data.workers=0"]
    flags += [f"--config.data.folder.channels={channels}"]
    return [*flags, "--config.data.folder.heldout_fraction=0.4", "--config.data.classes=0"]


def check_samples(name, samples):
    config = recipe(name, "tiny")
    if config.data.name == "heartbeat":
        assert samples.dtype == np.uint8 and samples.shape == (5, 20) and samples.max() <= 1
    elif config.data.name == "toy2d":
        assert samples.dtype == np.float32 and samples.shape == (5, 2) and np.isfinite(samples).all()
    else:
        grey = config.data.name in ("digits", "dead_leaves", "idx")
        channels = config.data.shape[-1] if config.data.shape else 1 if grey else 3
        assert samples.dtype == np.uint8 and samples.shape == (5, 8, 8, channels)
        assert samples.max() < (17 if config.data.name == "digits" else 256)


QUICK = ("toy2d", "dpm2015_heartbeat", "digits_vlb", "digits_ve", "digits_masked", "dpm2015_swissroll")
"""Those that the tests without the slow ones run."""


def marked(names):
    """Parameters, slow but for QUICK."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(name for name in RECIPES if name not in BY_COMMAND + ONLY_OTHER_DATA))
def test_recipe_takes_two_steps_and_samples(name, images, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    config = configs.load(f"configs/{name}.py:tiny")
    overrides = (flag.removeprefix("--config.").split("=", 1) for flag in reads(name, images))
    configs.override_all(config, dict(overrides))
    source = sources.source(config, "train")
    config = sources.resolve(config, source)
    experiment = wiring.build(config)
    key, shapes = setup.train_key(config), setup.state_shapes(config, experiment)
    train_state = setup.initial_state(config, experiment, shapes)
    step = setup.training_step(config, experiment, shapes)
    for n in (0, 1):
        batch = pipeline.batch(source, config.seed, n, config.batch_size, config.data.flip)
        train_state, metrics = step(train_state, batch, key)
        assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 0
    samples = drawing.samples(config, experiment.sampler)(
        state.weights(train_state, state.first_average(config)), np.arange(3, 8)
    )
    check_samples(name, samples)


@pytest.mark.parametrize("name", marked(BY_COMMAND))
def test_commands_train_and_sample_a_recipe(name, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    if name != "toy2d":  # all devices once
        monkeypatch.setattr(jax, "device_count", lambda: 1)
    workdir = str(tmp_path / "run")
    flags = [f"--config=configs/{name}.py:tiny", f"--workdir={workdir}", "--config.report.tensorboard=False"]
    if name not in WHOLE:
        flags += ["--config.eval.every=0", "--config.report.samples_every=0", "--config.checkpoint.every=2"]
    flags += reads(name, images)
    assert main.run(["main", "train", *flags]) == 0
    trained = json_line(capsys)
    assert trained["step"] == 2 and trained["workdir"] == workdir and np.isfinite(trained["loss"])
    assert (tmp_path / "run" / "images").is_dir() == (name in WHOLE)
    assert (tmp_path / "run" / "curves.png").exists()

    if recipe(name).loss.name == "cross_entropy":  # a classifier, which has no samples
        return
    out = tmp_path / "samples.npz"
    assert main.run(["main", "sample", f"--workdir={workdir}", "--num_samples=5", "--seed=3", f"--out={out}"]) == 0
    drawn = json_line(capsys)
    assert drawn["num_samples"] == 5 and drawn["step"] == 2 and pathlib.Path(drawn["picture"]).exists()
    assert zipfile.is_zipfile(out)
    config = recipe(name, "tiny")
    with np.load(out, allow_pickle=False) as file:
        samples, seeds = file["samples"], file["seeds"]
        if config.network.conditional:  # of a class drawn for each
            assert file["labels"].min() >= 0 and file["labels"].max() <= 9 and len(np.unique(file["labels"])) > 1
    np.testing.assert_array_equal(seeds, np.arange(3, 8))
    check_samples(name, samples)
