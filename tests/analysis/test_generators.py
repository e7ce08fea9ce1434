"""Runs of models without noise levels, a linear autoencoder and a linear GAN: every command, and what is refused."""

import json

import jax
import numpy as np
import pytest
from linear_models import gaussian

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.experiment import drawing, sources, wiring
from diffusion_jax.metrics.frechet import frechet_pixels
from diffusion_jax.runs import trained
from diffusion_jax.training import checkpoints

KINDS = {"vae": ("elbo", "LinearVAE"), "gan": ("gan", "LinearGAN")}
FLAGS = ["--config.report.tensorboard=False", "--config.report.samples_every=2", "--config.eval.num_samples=0"]


def train(kind, workdir, *flags):
    loss, network = KINDS[kind]
    flags = [f"--config.loss.name={loss}", f"--config.network.name=linear_models:{network}", *FLAGS, *flags]
    return main.run(["main", "train", "--config=digits:tiny", f"--workdir={workdir}", *flags])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trained runs, by kind."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        assert train(kind, folder / kind, "--config.sampler.name=direct") == 0
    return folder


def last_line(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_bounds_of_a_run_are_those_of_its_gaussian(runs, capsys):
    words = ["--likelihood=vlb,multi", "--bound.decoder=density", "--bound.paths=(1,16,64)", "--bound.num_examples=8"]
    assert main.run(["main", "evaluate", f"--workdir={runs / 'vae'}", *words]) == 0
    found = last_line(capsys)
    run = trained.load(str(runs / "vae"))
    net = jax.tree.map(np.float64, jax.device_get(run.params["net"]))
    w, shift, var = net["decoder"]["kernel"].T, net["decoder"]["bias"], np.exp(net["log_vars"][1])
    x = np.asarray(run.experiment.to_model(heldout(run), None)).reshape(8, -1)
    exact = gaussian(shift, w @ w.T + var * np.eye(len(w)))(x).mean() / (len(w) * np.log(2))
    bounds = [found[f"multi_bits_per_dim_{k}"] for k in (1, 16, 64)]
    assert bounds[0] > bounds[1] > bounds[2] > exact - 1e-5
    assert abs(found["bits_per_dim"] - bounds[0]) < 5 * np.hypot(
        found["bits_per_dim_stderr"], found["multi_bits_per_dim_1_stderr"]
    )
    rate, distortion = found["rate_bits_per_dim"], found["distortion_bits_per_dim"]
    np.testing.assert_allclose(rate + distortion, found["bits_per_dim"], rtol=1e-5)
    nats = sum(found[f"kl_nats_channel_{i}"] for i in range(2))
    np.testing.assert_allclose(nats / (len(w) * np.log(2)), rate, rtol=1e-5)
    assert found["latents"] == 2


def test_reconstructions_of_the_heldout_data_are_measured(runs, capsys):
    words = ["--metrics=fid", "--features=pixels", "--heldout", "--num_samples=300", "--allow=sizes", "--bootstrap=0"]
    assert main.run(["main", "evaluate", f"--workdir={runs / 'vae'}", *words]) == 0
    found = last_line(capsys)
    run = trained.load(str(runs / "vae"))
    net = jax.tree.map(np.float64, jax.device_get(run.params["net"]))
    train, held = (sources.source(run.config, split) for split in ("train", "heldout"))
    real, x = (source.read(np.arange(source.size))[0].reshape(source.size, -1) for source in (train, held))
    z = (x / 8 - 1) @ net["encoder"]["kernel"] + net["encoder"]["bias"]
    out = np.round((np.clip(z @ net["decoder"]["kernel"] + net["decoder"]["bias"], -1, 1) + 1) * 8)
    assert found["reconstruction_fd_pixels_297"] == pytest.approx(frechet_pixels(real, out), rel=0.01)
    assert found["heldout_fd_pixels_297"] < found["reconstruction_fd_pixels_297"]


def heldout(run):
    return sources.heldout(run.config).read(np.arange(8))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_depend_on_their_seed_alone(kind, runs, tmp_path, monkeypatch):
    run = trained.load(str(runs / kind))
    drawn = drawing.samples(run.config, run.experiment.sampler)(run.params, np.arange(3, 9))
    assert drawn.shape == (6, 8, 8, 1) and drawn.dtype == np.uint8
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    run.config.sampler.tile = 2
    params = jax.device_get(run.params)
    again = drawing.samples(run.config, run.experiment.sampler)(params, np.array([8, 4]))
    np.testing.assert_array_equal(again, drawn[[5, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_same_bit_for_bit(kind, runs, tmp_path):
    assert train(kind, tmp_path / "cut", "--config.sampler.name=direct", "--config.train_steps=1") == 0
    assert train(kind, tmp_path / "cut", "--config.sampler.name=direct") == 0
    whole, cut = (checkpoints.restore_weights(str(path), 2) for path in (runs / kind, tmp_path / "cut"))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


REFUSED = [
    *((kind, ["evaluate", f"--likelihood={name}"], "loss.name") for kind in KINDS for name in ("ode", "K")),
    *(("gan", ["evaluate", f"--likelihood={name}"], "loss.name") for name in ("vlb", "multi")),
    *((kind, ["encode", "--out={tmp}/z.npz"], "loss.name") for kind in KINDS),
    *((kind, ["sample", "--out={tmp}/x.npz", f"--sampler.{words}"], "sampler") for kind in KINDS
      for words in ("name=ddim", "num_steps=5", "levels=(4,1)")),
    *((kind, ["sample", "--out={tmp}/x.npz", "--guidance.name=classifier_free"], "guidance.name") for kind in KINDS),
    *((kind, ["sample", "--out={tmp}/x.npz", "--label=3"], "--label") for kind in KINDS),
    ("vae", ["detect", "--odd={tmp}/odd.npz"], "loss.name"),
    ("vae", ["represent"], "loss.name"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "words", "named"), REFUSED)
def test_commands_for_denoisers_are_refused_by_name(kind, words, named, runs, tmp_path, capsys):
    np.savez(tmp_path / "odd.npz", np.zeros((4, 8, 8, 1), np.uint8))
    before = sorted(tmp_path.iterdir())
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    assert main.run(["main", words[0], f"--workdir={runs / kind}", *words[1:]]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert named in lines[-1] and not any("Traceback" in line for line in lines)
    assert sorted(tmp_path.iterdir()) == before


BAD_CONFIGS = [
    ({"loss.name": "elbo", "network.name": "gan"}, "network.name"),
    ({"loss.name": "gan", "network.name": "vae"}, "network.name"),
    ({"loss.name": "gan"}, "network.name"),
    ({"network.name": "vae"}, "loss.name=elbo"),
    ({"network.name": "gan"}, "loss.name=gan"),
    ({"network.name": "vae", "loss.name": "elbo", "network.conditional": True}, "network.conditional"),
    ({"network.name": "vae", "loss.name": "elbo", "sampler.name": "ddim"}, "sampler.name"),
    ({"network.name": "vae", "loss.name": "elbo", "loss.elbo.beta": -1.0}, "loss.elbo.beta"),
    ({"network.name": "gan", "loss.name": "gan", "loss.gan.r1": -1.0}, "loss.gan.r1"),
    ({"network.name": "vae", "loss.name": "elbo", "data.std": 2.0, "sampler.clip_x0": False, "bound.clip_x0": False},
     "bound.decoder"),
    ({"sampler.name": "direct", "network.name": "unet"}, "sampler.name"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "named"), BAD_CONFIGS)
def test_choices_that_do_not_fit_are_refused(changes, named):
    config = configs.load("digits:tiny")
    config.data.update(shape=(8, 8, 1), levels=17, classes=10)
    for key, value in ({"sampler.name": "direct"} | changes).items():
        configs.put(config, key, value)
    with pytest.raises(ValueError, match=named):
        wiring.build(config)
