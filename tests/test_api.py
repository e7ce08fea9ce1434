"""The Python interface: models of one's own networks, runs that the command line reads as well, and bad input."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.experiment import drawing, wiring
from diffusion_jax.sampling.registry import SAMPLERS


class ImageNet(nn.Module):
    """A network of images with flax's Dropout, (x, time)."""

    width: int = 8

    @nn.compact
    def __call__(self, x, time):
        h = nn.silu(nn.Conv(self.width, (3, 3))(x) + nn.Dense(self.width)(time[:, None] / 10)[:, None, None])
        return nn.Conv(x.shape[-1], (3, 3))(nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(h))


class ActNet(nn.Module):
    """A network with an option that is a function."""

    act: Callable[..., Any] = nn.silu
    width: int = 8
    out_channels: int = 0
    more: Sequence[int] = dataclasses.field(default_factory=list)

    @nn.compact
    def __call__(self, x, time):
        return nn.Conv(x.shape[-1], (3, 3))(self.act(nn.Conv(self.width, (3, 3))(x) + time[:, None, None, None]))


class LabelNet(nn.Module):
    """A network of vectors with a label, (x, time, label, train)."""

    @nn.compact
    def __call__(self, x, time, label, train):
        h = nn.Dense(8)(x) + nn.Embed(4, 8)(label + 1) + time[:, None] / 1000
        return nn.Dense(x.shape[-1])(nn.Dropout(0.1, deterministic=not train)(nn.silu(h)))


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 1), dtype=np.uint8)
VECTORS = np.random.default_rng(1).normal(size=(48, 3)).astype(np.float32)
LABELS = np.arange(48) % 3
SMALL = {"train_steps": 4, "batch_size": 8}


def straight(t):
    """A schedule of ours: alpha = 1 - 0.9 t, sigma = t."""
    return jnp.log1p(-0.9 * t), jnp.log(t)


def model(**changes):
    return dj.Model(ImageNet(), **{"schedule": dj.schedules.cosine(num_steps=10), "target": "v", **changes})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def run(workdir):
    return dj.train(model(), IMAGES, heldout=IMAGES[:8], workdir=workdir, **SMALL)


def test_a_model_is_trained_and_sampled_on_images_that_are_not_square(run):
    x = run.sample(5, sampler=dj.samplers.dpmpp_2m(), num_steps=3, seed=7)
    assert x.shape == (5, 4, 6, 1) and x.dtype == np.uint8
    np.testing.assert_array_equal(run.sample(2, sampler="dpmpp_2m", num_steps=3, seed=8), x[1:3])
    assert run.step == 4 and run.config.network.conditioning == "step"
    assert {"loss", "heldout_loss"} <= set().union(*run.history())
    assert "net" in run.params


def test_a_sampler_is_made_once_while_its_choices_stay(run, monkeypatch):
    made = []
    samples = drawing.samples
    monkeypatch.setattr(drawing, "samples", lambda *args, **options: made.append(args) or samples(*args, **options))
    few = run.sample(2, sampler="dpmpp_2m", num_steps=4)
    np.testing.assert_array_equal(run.sample(4, sampler="dpmpp_2m", num_steps=4, seed=0)[:2], few)
    run.sample(2, sampler="dpmpp_2m", num_steps=4, seed=5)
    assert len(made) == 1
    assert (run.sample(2, sampler="dpmpp_2m", num_steps=2) != few).any()
    np.testing.assert_array_equal(run.sample(2, sampler="dpmpp_2m", num_steps=4), few)
    assert len(made) == 3


def test_likelihood_metrics_encoding_and_restoration_of_a_run(run):
    assert np.isfinite(run.likelihood(IMAGES[:6], options={"bound.num_steps": 5})["bits_per_dim"])
    assert np.isfinite(run.likelihood(options={"bound.num_steps": 5})["bits_per_dim"])
    figures = run.metrics(["fid"], num_samples=8, bootstrap=0)
    assert np.isfinite(figures["fd_pixels_8"])
    noise = run.encode(IMAGES[:3])
    assert noise.shape == (3, 4, 6, 1) and run.decode(noise).shape == (3, 4, 6, 1)
    few = {"sampler.name": "ddim", "sampler.num_steps": 3}
    assert not np.array_equal(run.encode(IMAGES[:3], by="ddim", options=few), run.encode(IMAGES[:3], by="ddim"))
    for unsuitable in (
        {"num_steps": 2},
        {"draws": 3},
        {"method_options": {"zeta": 1}},
        {"repeats": 2, "operator": "grey"},
    ):
        with pytest.raises(ValueError, match=next(iter(unsuitable))):
            run.restore(IMAGES[:3], **unsuitable)
    known = np.arange(24).reshape(4, 6) % 2 > 0
    for mask in ("left", known, known[..., None]):
        restored = run.restore(IMAGES[:3], mask=mask)
        assert restored["restored"].shape == (3, 4, 6, 1) and np.isfinite(restored["rmse"])
        assert isinstance(mask, str) or (restored["mask"] == known[..., None]).all()
    masks = [run.restore(IMAGES[:3], mask="random", seed=seed)["mask"] for seed in (0, 7)]
    assert (masks[0] != masks[1]).any()
    assert run.restore(IMAGES[:3], operator="mask", mask=known)["observed"].shape == (3, 12)


def test_options_of_your_own_network_may_be_lists_of_numbers():
    class Weighted(ImageNet):
        gains: tuple[float, ...] = (1.0,)

    config = dj.Model(Weighted(gains=(0.5, 1.0)), num_steps=10).config()
    config.data.shape, config.data.levels = (4, 6, 1), 256
    wiring.check(config)
    config = dj.Model(LabelNet(), num_steps=10).config()
    configs.put(config, "network.name", f"{__name__}:ImageNet")
    configs.put(config, "network.options.gains", (0.5, 1.0))
    config.data.shape, config.data.levels = (4, 6, 1), 256
    wiring.check(config)


def test_grey_levels_are_counted_before_anything_runs(tmp_path, caplog):
    for levels in (1, 1000):
        with pytest.raises(ValueError, match=f"levels={levels}"):
            dj.train(model(), IMAGES.astype(int), levels=levels, workdir=str(tmp_path / "run"), **SMALL)
    assert not (tmp_path / "run").exists()
    run = dj.train(model(), IMAGES / 255, **SMALL)
    assert any(r.levelname == "WARNING" and "data" in r.getMessage() for r in caplog.records) and run.step == 4


def test_the_command_line_reads_the_run_and_draws_the_same_bytes(run, workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "test_api_nets", sys.modules[__name__])
    monkeypatch.setattr(ImageNet, "__module__", "test_api_nets")
    out = tmp_path / "x.npz"
    other = str(tmp_path / "run")
    again = dj.train(model(), IMAGES, workdir=other, **SMALL)
    assert again.config.network.name == "test_api_nets:ImageNet"
    code = main.run(["main", "sample", f"--workdir={other}", "--num_samples=3", "--seed=2", f"--out={out}"])
    assert code == 0 and json.loads(capsys.readouterr().out.splitlines()[-1])["num_samples"] == 3
    with np.load(out) as file:
        np.testing.assert_array_equal(file["samples"], again.sample(3, seed=2))
        np.testing.assert_array_equal(file["samples"], dj.load(other).sample(3, seed=2))


def test_a_network_that_cannot_be_imported_is_handed_over_again(tmp_path):
    class Local(ImageNet):
        pass

    run = dj.train(dj.Model(Local(), num_steps=10), IMAGES, workdir=str(tmp_path), **SMALL)
    with pytest.raises(ValueError, match=r"network\.name"):
        dj.load(str(tmp_path))
    loaded = dj.load(str(tmp_path), network=Local())
    np.testing.assert_array_equal(loaded.sample(2, seed=1), run.sample(2, seed=1))


def test_a_schedule_of_yours_is_handed_over_again(tmp_path):
    """Its name alone would be called as a factory."""
    mine = dj.Model(ImageNet(), schedule=straight)
    run = dj.train(mine, IMAGES, workdir=str(tmp_path), **SMALL)
    with pytest.raises(ValueError, match=r"schedule\.name.*schedule="):
        dj.load(str(tmp_path))
    dj.train(mine, IMAGES, workdir=str(tmp_path), **SMALL)
    loaded = dj.load(str(tmp_path), schedule=straight)
    np.testing.assert_array_equal(loaded.sample(2, num_steps=3, seed=1), run.sample(2, num_steps=3, seed=1))


def test_a_network_with_an_option_that_no_config_holds_is_handed_over_again(tmp_path):
    """Loaded by name it would be the network with its default."""
    run = dj.train(dj.Model(ActNet(act=jnp.sin, width=4), num_steps=10), IMAGES, workdir=str(tmp_path), **SMALL)
    with pytest.raises(ValueError, match=r"network\.name.*network="):
        dj.load(str(tmp_path))
    again = dj.train(dj.Model(ActNet(act=jnp.sin, width=4), num_steps=10), IMAGES, workdir=str(tmp_path), **SMALL)
    loaded = dj.load(str(tmp_path), network=ActNet(act=jnp.sin, width=4))
    np.testing.assert_array_equal(again.sample(2, seed=1), loaded.sample(2, seed=1))
    np.testing.assert_array_equal(loaded.sample(2, seed=1), run.sample(2, seed=1))


@pytest.mark.parametrize(
    "options, stored",
    [
        ({}, True),
        ({"width": 4}, True),
        ({"act": jnp.sin}, False),
        ({"out_channels": 2}, False),
        ({"more": (1, 2)}, True),
    ],
)
def test_a_network_is_stored_by_name_if_that_makes_it_again(options, stored):
    assert ":" in (name := str(dj.Model(ActNet(**options), num_steps=10).config().network.name))
    assert name.endswith("(…)") != stored


def test_a_model_without_label_dropout_needs_labels():
    strict = dj.Model(LabelNet(), schedule=dj.schedules.vp())
    with pytest.raises(ValueError, match="heldout_labels"):
        dj.train(strict, VECTORS, labels=LABELS, heldout=VECTORS[:8], **SMALL)
    run = dj.train(strict, VECTORS, labels=LABELS, **SMALL)
    for question in (run.likelihood, run.encode, run.decode):
        with pytest.raises(ValueError, match="labels"):
            question(VECTORS[:4])
        for labels in (np.full(4, 9), np.full(4, -1), [0, 1]):
            with pytest.raises(ValueError, match="labels"):
                question(VECTORS[:4], labels)
    with pytest.raises(ValueError, match=r"features: .*label"):
        run.features(VECTORS[:4])
    with pytest.raises(ValueError, match="labels of heldout"):
        dj.load(run.workdir, network=LabelNet(), heldout=VECTORS[:4])


def test_label_dropout_may_be_an_option():
    few = {"labels": LABELS, "heldout": VECTORS[:8], "options": {"network.label_dropout": 0.2}}
    assert dj.train(dj.Model(LabelNet(), schedule=dj.schedules.vp()), VECTORS, **few, **SMALL).step == 4


def test_vectors_with_labels_in_continuous_time():
    vectors = dj.Model(LabelNet(), schedule=dj.schedules.vp(), label_dropout=0.2)
    with pytest.raises(ValueError, match="heldout_labels"):
        dj.train(vectors, VECTORS, labels=LABELS, heldout=VECTORS[:8], heldout_labels=np.full(8, 7), **SMALL)
    run = dj.train(vectors, VECTORS, labels=LABELS, **SMALL)
    assert run.config.process.num_steps == 0 and run.config.data.classes == 3
    x = run.sample(4, label=2, num_steps=3, sampler="ddim", guidance_scale=2.0)
    assert x.shape == (4, 3) and x.dtype == np.float32


class AnyShape(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return nn.Dense(x.shape[-1])(x)


def test_examples_of_other_shapes_are_trained_without_pictures(tmp_path):
    x = np.zeros((16, 2, 4, 4, 1), np.float32)
    run = dj.train(dj.Model(AnyShape()), x, workdir=tmp_path, **SMALL)
    assert run.sample(2).shape == (2, 2, 4, 4, 1)
    with pytest.raises(ValueError, match="samples_every"):
        dj.train(dj.Model(AnyShape()), x, workdir=tmp_path / "b", options={"report.samples_every": 1}, **SMALL)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("data.flip", 1, "data.flip"), ("train_steps", 2.5, "train_steps"), ("train_steps", "many", "train_steps"),
     ("train_steps", True, "train_steps"), ("loss.name", 3, "loss.name"), ("optimizer.adam", 1, "optimizer.adam")],
)  # fmt: skip
def test_options_of_another_type_are_refused(key, value, named):
    with pytest.raises(ValueError, match=named):
        dj.Model(ImageNet(), options={key: value}).config()


def test_options_are_of_the_type_of_their_defaults():
    options = {"data.flip": "false", "ema.decays": 0.99, "train_steps": np.int64(5), "sampler.ddim.eta": 1}
    config = dj.Model(ImageNet(), options=options).config()
    assert config.data.flip is False and config.ema.decays == (0.99,)
    assert type(config.train_steps) is int and type(config.sampler.ddim.eta) is float


def test_a_choice_has_the_defaults_of_its_options(run):
    noisy = run._changed("ddim", None, None, {"sampler.ddim.eta": 0.5})
    assert noisy.config.sampler.ddim.eta == 0.5
    again = dj.Run(noisy)._changed(dj.samplers.ddim(), None, None, None)
    assert again.config.sampler.ddim.eta == 0


def test_heldout_images_in_another_range_are_refused():
    x = np.linspace(-1, 1, 8 * 16, dtype=np.float32).reshape(8, 4, 4, 1)
    with pytest.raises(ValueError, match="heldout"):
        dj.train(dj.Model(ImageNet()), x, heldout=127.5 * (x + 1), **SMALL)


def test_dropout_depends_on_the_example_alone():
    """On one device, on four, and in parts: the same losses, with dropout on."""
    losses = []
    for options in ({}, {"accumulate_steps": 2}):
        run = dj.train(model(), IMAGES, options={"report.every": 1, **options}, **SMALL)
        losses.append([record["loss"] for record in run.history()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    without = dj.train(dj.Model(ImageNet(), num_steps=10), IMAGES, **SMALL)
    assert without.history()[0]["loss"] != losses[0][0]


def test_a_run_goes_on_where_it_ended(tmp_path):
    straight = dj.train(model(), IMAGES, train_steps=6, batch_size=8, learning_rate=1e-3)
    part = str(tmp_path / "part")
    options = {"optimizer.warmup_steps": 1}
    dj.train(model(), IMAGES, train_steps=3, batch_size=8, learning_rate=1e-3, workdir=part, options=options)
    resumed = dj.train(model(), IMAGES, train_steps=6, batch_size=8, learning_rate=1e-3, workdir=part, options=options)
    straight_options = dj.train(model(), IMAGES, train_steps=6, batch_size=8, learning_rate=1e-3, options=options)
    assert resumed.step == straight.step == 6
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight_options.params)


def test_a_run_is_continued_for_longer(tmp_path):
    for steps in (20, 40):
        run = dj.train(model(), IMAGES, train_steps=steps, batch_size=8, workdir=str(tmp_path))
    assert run.step == 40 and run.config.optimizer.warmup_steps == 2


@pytest.mark.parametrize("name", ["ddim", "edm", "dpmpp_2m", "unipc", "dopri5", "ancestral"])
def test_a_custom_denoiser_is_sampled(name):
    """The exact denoiser of N(0, 1/4), with enough steps for samples near that distribution."""

    def denoise(x, sigma):
        return x / (1 + 4 * sigma[:, None] ** 2)

    x = dj.sample(denoise, dj.schedules.edm(), shape=(16,), seeds=range(512), sampler=name, num_steps=60)
    error = {"ancestral": 0.1}.get(name, 0.04)
    assert x.shape == (512, 16) and abs(x.std() - 0.5) < error
    again = dj.sample(denoise, dj.schedules.edm(), shape=(16,), seeds=[5, 3], sampler=name, num_steps=60)
    np.testing.assert_array_equal(again, x[[5, 3]])


def test_schedules_are_functions_with_their_options():
    schedule = dj.schedules.cosine(num_steps=10, offset=0.01)
    log_alpha, _ = schedule(jnp.array([0.0, 1.0]))
    assert float(log_alpha[0]) == 0 and schedule.options == {"num_steps": 10, "offset": 0.01}
    assert set(dj.samplers) == set(SAMPLERS) and set(dj.losses) >= {"min_snr", "vlb"}
    assert dj.networks.UNet.__name__ == "UNet" and dj.processes.binomial(rate=0.3).options == {"rate": 0.3}


def test_networks_of_the_package_keep_their_names():
    config = dj.Model(dj.networks.MLP(out_channels=3, width=32), num_steps=10).config()
    assert config.network.name == "mlp" and config.network.mlp.width == 32


def test_a_loss_of_continuous_time_has_all_times():
    vdm = dj.Model(ImageNet(), schedule=dj.schedules.linear_logsnr(), loss=dj.losses.vdm())
    assert vdm.config().times.min_t == 0
    assert dj.train(vdm, IMAGES, **SMALL).step == 4


def test_losses_and_processes_are_choices():
    config = model(loss=dj.losses.min_snr(gamma=3.0)).config()
    assert config.loss.name == "min_snr" and config.loss.min_snr.gamma == 3.0
    assert model(loss=dj.losses.vlb()).config().loss.name == "vlb"
    assert dj.processes.categorical("absorbing").options == {"noise": "absorbing"}
    with pytest.raises(ValueError, match=r"process\.categorical"):
        dj.processes.categorical(num_levels=3)


class Halving(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return x[:, ::2]


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return nn.BatchNorm(use_running_average=False)(x)


class Alone(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x


class Loud(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(x.shape[-1])(x))


BAD = [
    (lambda: dj.train(dj.Model(Halving()), IMAGES, **SMALL), "Halving"),
    (lambda: dj.train(dj.Model(Normed()), IMAGES, **SMALL), "batch_stats"),
    (lambda: dj.train(dj.Model(Alone()), IMAGES, **SMALL), "Alone"),
    (lambda: dj.train(dj.Model(Loud()), IMAGES, **SMALL), "has_rng"),
    (lambda: dj.train(dj.Model("unet"), IMAGES, **SMALL), "flax.linen"),
    (lambda: dj.train(model(target="w"), IMAGES, **SMALL), "target='w'"),
    (lambda: model(schedule="cosin"), "cosine"),
    (lambda: model(schedule=3), "schedule=3"),
    (lambda: model(schedule=dj.schedules.cosine), r"dj\.schedules\.cosine\(\)"),
    (lambda: model(loss=dj.losses.min_snr), r"dj\.losses\.min_snr\(\)"),
    (lambda: model(schedule=dj.schedules.cosine(offset="a")), "schedule.cosine.offset"),
    (lambda: model(schedule=dj.schedules.cosine(num_steps=10), num_steps=20), "num_steps"),
    (lambda: model(label_dropout="a"), "label_dropout"),
    (lambda: model(options="sampler.num_steps"), "options"),
    (lambda: dj.Model(None), "NoneType"),
    (lambda: dj.Model(Loud), "Loud"),
    *(
        (lambda key=key, value=value: dj.train(model(), IMAGES, **SMALL | {key: value}), key)
        for key, value in (("train_steps", 10.5), ("batch_size", (8,)), ("learning_rate", "fast"), ("seed", 1.5))
    ),
    (lambda: dj.train(model(schedule=dj.samplers.ddim()), IMAGES, **SMALL), "schedule"),
    (lambda: dj.train(model(), IMAGES / 1.0, **SMALL), r"\[-1, 1\]"),
    (lambda: dj.train(model(), IMAGES.astype(np.int32) + 200, **SMALL), "grey levels"),
    (lambda: dj.train(model(), IMAGES.astype(str), **SMALL), "dtype"),
    (lambda: dj.train(model(), VECTORS * np.nan, **SMALL), "finite"),
    (lambda: dj.train(model(), IMAGES, labels=np.zeros(40, int), **SMALL), "labels"),
    (lambda: dj.train(dj.Model(LabelNet()), VECTORS, labels=LABELS[:5], **SMALL), "labels"),
    (lambda: dj.train(model(), IMAGES, heldout=VECTORS, **SMALL), "heldout"),
    (lambda: dj.train(model(), IMAGES, options={"optimizer.learning_rat": 1}, **SMALL), "optimizer.learning_rate"),
    (lambda: dj.train(model(), IMAGES, options={"train_steps": 9}, **SMALL), "train_steps"),
    (lambda: dj.train(model(), IMAGES, options={"schedule.name": "linear"}, **SMALL), r"schedule\.name"),
    (lambda: dj.train(model(), IMAGES, options={"prediction.target": "eps"}, **SMALL), r"prediction\.target"),
    (lambda: dj.train(model(), IMAGES, options={"network.name": "mlp"}, **SMALL), r"network\.name"),
    (lambda: dj.Model(ImageNet(), target="v", options={"prediction.target": "eps"}), r"prediction\.target"),
    (lambda: dj.train(IMAGES, model(), **SMALL), "model"),
    (lambda: dj.train(model(), IMAGES, heldout=IMAGES[:8], heldout_labels=np.zeros(8, int), **SMALL), "labels"),
    (lambda: dj.schedules.cosine(ofset=1), "cosine"),
    (lambda: dj.sample(lambda x, s: x, dj.schedules.edm(), shape=(2,), seeds=[0], sampler="dpm"), "dpmpp"),
    (lambda: dj.sample(lambda x, s: x, dj.schedules.rectified_flow(), shape=(2,), seeds=[0]), "schedule.*t = 1"),
    (lambda: dj.sample(lambda x, s: x, dj.schedules.cosine(), shape=(2,), seeds=[0]), "cosine.*num_steps"),
    *(
        (lambda seeds=seeds: dj.sample(lambda x, s: x, dj.schedules.edm(), shape=(2,), seeds=seeds), "seeds")
        for seeds in ([], [-1], [2**32], [0.5], 3)
    ),
    (lambda: dj.sample(lambda x, s: x, "edn", shape=(2,), seeds=[0]), "edm"),
    (lambda: dj.sample(lambda x, s: x, "edm", shape=(2,), seeds=[0], min_t=1.0), "min_t=1.0"),
    (lambda: dj.sample(lambda x, s: x, "edm", shape=(2,), seeds=[0], min_t=-0.5), "min_t=-0.5"),
    (lambda: dj.sample(lambda x, s: x, "edm", shape=(2,), seeds=[0], tile=0), "tile=0"),
    (lambda: dj.sample(lambda x, s: x, "edm", shape=2, seeds=[0]), "shape=2"),
    (lambda: dj.sample(lambda x, s: x, "edm", shape=(2,), seeds=[0], sampler=dj.samplers.ddim), r"ddim\(\)"),
    (lambda: dj.sample(lambda x, s: x[:, :1], "edm", shape=(2,), seeds=[0]), r"denoiser.*\(64, 1\).*\(64, 2\)"),
    (lambda: dj.sample(lambda x, s: x / (1 + s**2), "edm", shape=(8,), seeds=[0]), r"denoiser.*\(64, 8\)"),
    (lambda: model(loss=3), "loss=3"),
    (lambda: model(loss=straight), "loss="),
]


@pytest.mark.parametrize(("call", "named"), BAD)
def test_bad_input_is_one_line(call, named):
    with pytest.raises(ValueError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_calls_that_do_not_suit_a_run_are_refused(run, workdir, tmp_path):
    with pytest.raises(ValueError, match="sampler"):
        run.sample(2, sampler="ddimm")
    with pytest.raises(ValueError, match="shape"):
        run.likelihood(IMAGES[:, :2])
    with pytest.raises(ValueError, match="label"):
        run.sample(2, label=1)
    for key in ("schedule.name", "prediction.target", "network.name", "train_steps", "data.name"):
        with pytest.raises(ValueError, match=key):
            run.sample(2, options={key: run.config.train_steps})
    for values in ({"num_steps": 2.0}, {"seed": 1.5}, {"guidance_scale": "much"}, {"sampler": dj.samplers.ddim}):
        with pytest.raises(ValueError, match=next(iter(values))):
            run.sample(2, **values)
    with pytest.raises(ValueError, match=r"sampler\.ddim\.eta"):
        run.sample(2, options={"sampler.ddim.eta": 0.5})
    with pytest.raises(ValueError, match=r"sampler\.num_steps"):
        run.sample(2, num_steps=2, options={"sampler.num_steps": 3})
    with pytest.raises(ValueError, match="num_samples"):
        run.sample("2")
    with pytest.raises(ValueError, match="num_examples"):
        run.represent(num_examples=3)
    for call in (run.represent, lambda **few: run.features(IMAGES[:2], **few), lambda **few: run.detect(IMAGES, **few)):
        with pytest.raises(ValueError, match="num_steps"):
            call(num_steps=0)
    with pytest.raises(ValueError, match=r"ema=0\.5"):
        dj.load(workdir, ema=0.5)
    with pytest.raises(ValueError, match=r"network:.*Conv"):
        dj.load(workdir, network=ImageNet(width=16))
    with pytest.raises(ValueError, match="in_memory"):
        dj.load(workdir, network=ImageNet()).likelihood()
    with pytest.raises(ValueError, match="data"):
        dj.load(workdir, network=ImageNet(), heldout=IMAGES[:2]).restore(num_examples=2)
    with pytest.raises(ValueError, match="data"):
        run.restore(IMAGES[:2], operator=lambda x: x.mean(0), y=np.zeros((2, *IMAGES.shape[2:])), noise=0.1)
    with pytest.raises(ValueError, match="task"):
        run.restore(IMAGES[:2], operator="blur", task="denoise")
    few = {"bound.num_steps": 2}
    without = dj.load(workdir, network=ImageNet()).likelihood(IMAGES[:2], options=few)
    assert "baseline_bits_per_dim" not in without
    assert without["bits_per_dim"] == run.likelihood(IMAGES[:2], options=few)["bits_per_dim"]
    with pytest.raises(ValueError, match=r"network\.options|network\.name"):
        dj.train(dj.Model(ImageNet(width=16), num_steps=10), IMAGES, workdir=workdir, **SMALL)
    with pytest.raises(FileNotFoundError):
        dj.load(str(tmp_path / "none"))


def test_nothing_slow_is_imported_before_it_is_used():
    code = "import sys, diffusion_jax as dj; dir(dj); print('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
    with pytest.raises(AttributeError, match="modl"):
        _ = dj.modl


def test_configs_of_models_are_stored_configs(run):
    stored = configs.plain(run.config)
    assert stored["network"]["name"].endswith(":ImageNet") and stored["data"]["name"] == "in_memory"
    json.dumps(stored)
