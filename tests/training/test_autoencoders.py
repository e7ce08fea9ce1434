"""Latent diffusion on a linear autoencoder: its latents, samples, resumption without the first run, and refusals."""

import jax
import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.data.scaling import from_model
from diffusion_jax.experiment import drawing, sources
from diffusion_jax.runs import trained
from diffusion_jax.training import checkpoints

pytestmark = pytest.mark.usefixtures("one_device")

QUIET = ["--config.report.tensorboard=False", "--config.report.samples_every=0", "--config.eval.svm=False"]
VAE = ["--config.loss.name=elbo", "--config.network.name=linear_models:LinearVAE", "--config.sampler.name=direct"]


def train(workdir, *flags):
    return main.run(["main", "train", "--config=digits:tiny", f"--workdir={workdir}", *QUIET, *flags])


def latent(workdir, autoencoder, *flags):
    flags = [f"--config.latent.workdir={autoencoder}", "--config.sampler.clip_x0=False", *flags]
    return train(workdir, "--config.network.name=mlp", *flags)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An autoencoder that is gone, runs of its latents to step 2 and to step 1, and a GAN."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(folder / "vae", *VAE) == 0
    assert latent(folder / "whole", folder / "vae") == 0
    assert latent(folder / "cut", folder / "vae", "--config.train_steps=1") == 0
    (folder / "vae").rename(folder / "moved")
    assert train(folder / "vae_1", *VAE, "--config.seed=1") == 0
    assert latent(folder / "other", folder / "vae_1") == 0
    assert train(folder / "plain") == 0
    gan = ["--config.loss.name=gan", "--config.network.name=linear_models:LinearGAN", "--config.sampler.name=direct"]
    assert train(folder / "gan", *gan) == 0
    return folder


def test_latents_of_the_training_data_have_unit_variance(runs):
    run = trained.load(str(runs / "whole"))
    train = sources.source(run.config, "train")
    x = train.read(np.arange(train.size))[0]
    z = np.asarray(run.experiment.to_model(x, jax.random.split(jax.random.key(0), len(x))))
    assert z.shape == (train.size, 2)
    np.testing.assert_allclose(z.std(), 1, rtol=1e-5)
    net = trained.load(str(runs / "moved")).params["net"]
    mean = (x.reshape(len(x), -1) / 8 - 1) @ net["encoder"]["kernel"] + net["encoder"]["bias"]
    np.testing.assert_allclose(z, mean / np.std(mean), rtol=1e-4, atol=1e-5)


def test_samples_are_decoded_latents(runs):
    run = trained.load(str(runs / "whole"))
    drawn = drawing.samples(run.config, run.experiment.sampler)(run.params, np.arange(5))
    z = np.asarray(run.experiment.sampler.sample(run.params, np.arange(5, dtype=np.uint32)))
    scale, net = run.config.latent.autoencoder.made.scale, trained.load(str(runs / "moved")).params["net"]
    x = (z / scale @ net["decoder"]["kernel"] + net["decoder"]["bias"]).reshape(5, 8, 8, 1)
    expected = np.asarray(from_model(x, 17), int)
    assert np.abs(drawn.astype(int) - expected).max() <= 1 and np.mean(drawn != expected) < 0.02


def test_a_run_resumes_bit_for_bit_without_the_run_of_its_autoencoder(runs):
    assert latent(runs / "cut", runs / "vae") == 0
    whole, cut = (checkpoints.restore_weights(str(runs / name), 2) for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


def test_a_model_of_the_same_latents_guides(runs, tmp_path):
    flags = ["--guidance.name=autoguidance", "--guidance.scale=2", f"--guidance.autoguidance.workdir={runs}/cut"]
    assert (
        main.run(["main", "sample", f"--workdir={runs}/whole", f"--out={tmp_path}/x.npz", "--num_samples=2", *flags])
        == 0
    )


REFUSED = [
    *(["evaluate", f"--likelihood={name}", "--workdir={runs}/whole"] for name in ("vlb", "multi", "ode", "K")),
    *([name, "--workdir={runs}/whole", "--out={tmp}/z.npz"] for name in ("encode", "compress")),
    ["restore", "--workdir={runs}/whole", "--out={tmp}/z.npz", "--task=inpaint"],
    ["detect", "--workdir={runs}/whole", "--odd={tmp}/odd.npz"],
    ["represent", "--workdir={runs}/whole"],
    ["show", "--workdir={runs}/whole"],
    *(["sample", f"--workdir={{runs}}/{run}", "--out={tmp}/z.npz", "--guidance.name=autoguidance", "--guidance.scale=2",
       f"--guidance.autoguidance.workdir={{runs}}/{guide}"] for run, guide in (("whole", "other"), ("whole", "plain"))),
    *(["train", "--config=digits:tiny", "--workdir={tmp}/new", "--config.network.name=mlp", *flags] for flags in (
        ["--config.latent.workdir={runs}/none"],
        ["--config.latent.workdir={runs}/gan"],
        ["--config.latent.workdir={runs}/moved"],  # with clipping
        ["--config.latent.workdir={runs}/moved", "--config.sampler.clip_x0=False", "--config.data.name=dead_leaves"],
        ["--config.latent.workdir={runs}/moved", "--config.sampler.clip_x0=False",
         "--config.data.coupling=optimal_transport"],
    )),
]  # fmt: skip


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(words[:2] + words[-1:]))
def test_refusals_name_the_autoencoder(words, runs, tmp_path, capsys):
    np.savez(tmp_path / "odd.npz", np.zeros((4, 8, 8, 1), np.uint8))
    before = sorted(tmp_path.iterdir())
    words = [word.replace("{tmp}", str(tmp_path)).replace("{runs}", str(runs)) for word in words]
    assert main.run(["main", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "latent.workdir" in lines[-1] and not any("Traceback" in line for line in lines)
    assert sorted(tmp_path.iterdir()) == before
