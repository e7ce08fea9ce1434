"""Detection of odd images: the statistics in closed form, the scores against the truth, and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from diffusion_jax import config as configs
from diffusion_jax.analysis import detection, heldout, image_statistics
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import from_arrays, subset
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process.base import expand
from diffusion_jax.process.binomial import BinomialProcess
from diffusion_jax.runs import trained


@pytest.fixture(scope="module")
def run(workdir):
    return trained.load(str(workdir))


def test_statistics_of_a_denoiser_that_always_predicts_zero(run):
    """Then eps = x_t/sigma, so that every error and every norm is a multiple of the mean square of x0."""

    def zero(params, x_t, level, label=None, keys=None):
        return Prediction(0 * x_t, x_t * expand(1 / level.sigma, x_t), None)

    replaced = run._replace(experiment=run.experiment._replace(predict=zero))
    source = sources.source(run.config, "heldout")._replace(size=6)
    found = image_statistics.statistics(replaced)
    measured = heldout.map_batches(replaced, found, source)
    square = (
        np.square(np.asarray(to_model(source.read(np.arange(6))[0], run.config.data.levels))).reshape(6, -1).mean(1)
    )
    ratio = image_statistics.noise_levels(run).at.logsnr
    starts = measured["reconstruction"].shape[1]
    np.testing.assert_allclose(measured["reconstruction"], square[:, None].repeat(starts, 1), rtol=1e-5)
    np.testing.assert_allclose(measured["score_norms"], np.log(square)[:, None] + ratio, rtol=1e-4)
    np.testing.assert_allclose(measured["denoising"], np.log(square)[:, None] + ratio, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(measured["x0_error"], square[:, None].repeat(len(ratio), 1), rtol=1e-5)
    assert measured["path"].shape == (6, 6)


@pytest.mark.parametrize("begin", [-12.0, -np.inf])
def test_the_bound_of_gaussian_data_from_a_few_levels(begin):
    """The integral is known for N(0, s²) and its denoiser. The x0 error without signal is s²."""
    variances = np.array([0.3, 2.0])[:, None]
    for count, limit in ((20, 2e-2), (2000, 2e-5)):
        log_snr = np.r_[begin, np.linspace(-10, 8, count)]
        signal = variances * np.exp(log_snr)
        found = image_statistics.diffusion_nats(variances / (1 + signal), log_snr)
        exact = (np.log1p(signal[:, -1]) - np.log1p(signal[:, 0])) / 2
        np.testing.assert_allclose(found, exact, rtol=limit)


@pytest.mark.parametrize(
    ("steps", "schedule"), [(1000, "linear"), (1000, "cosine"), (0, "linear_logsnr"), (100, "rectified_flow")]
)
def test_bits_from_a_few_levels_are_the_entropy_of_gaussian_pixels(run, steps, schedule):
    """By their exact denoiser, N(-0.2, 0.25²) in grey levels of 1/127.5. The least noise is about one level."""

    def exact(params, x_t, level, label=None, keys=None):
        alpha, sigma = expand(level.alpha, x_t), expand(level.sigma, x_t)
        x0 = -0.2 + alpha * 0.0625 / (alpha**2 * 0.0625 + sigma**2) * (x_t + 0.2 * alpha)
        return Prediction(x0, (x_t - alpha * x0) / sigma, None)

    config = run.config.copy_and_resolve_references()
    config.process.num_steps, config.schedule.name, config.bound.num_steps = steps, schedule, 20
    config.network.conditioning = "step" if steps else "time"
    config.schedule.linear_logsnr.gamma_min = -9.5
    config.sampler.num_steps, config.data.levels = 4, 256
    if schedule == "rectified_flow":
        config.prediction.target = "velocity"
    other = run._replace(config=config, experiment=wiring.build(config)._replace(predict=exact))
    x = np.random.default_rng(0).normal(-0.2, 0.25, (100, 8, 8, 1))
    source = from_arrays("gaussian", np.rint((x + 1) * 127.5).astype(np.uint8), None, 256, 0)
    entropy = np.log2(0.25 * 127.5 * np.sqrt(2 * np.pi * np.e))
    found = image_statistics.measure(other, source)["bits"].mean()
    assert found == pytest.approx(entropy, abs=0.8)  # 0.02 to 0.08 measured; the decoder alone is 2 bits


def test_auroc_of_two_gaussians():
    generator = np.random.default_rng(0)
    normal, odd = generator.standard_normal(20_000), generator.standard_normal(20_000) + 1
    expected = norm.cdf(1 / np.sqrt(2))
    assert detection.auroc(normal, odd) == pytest.approx(expected, abs=0.01)  # 4 standard errors
    low, high = detection.auroc_interval(normal[:500], odd[:500])
    assert low < expected < high and 0.03 < high - low < 0.1
    assert detection.fpr95(normal, odd) == pytest.approx(norm.sf(norm.ppf(0.05) + 1), abs=0.02)
    assert detection.auroc(np.zeros(5), np.zeros(7)) == 0.5


def test_mahalanobis_distance():
    generator = np.random.default_rng(1)
    mixing = np.array([[2.0, 0.0], [1.5, 0.5]])
    fit, rows = (generator.standard_normal((size, 2)) @ mixing.T + 3 for size in (100_000, 5))
    exact = np.linalg.norm(np.linalg.solve(mixing, (rows - 3).T), axis=0)
    np.testing.assert_allclose(detection.mahalanobis(fit, rows), exact, rtol=0.05)


def test_the_command(command, workdir, run, tmp_path):
    x, _ = sources.source(run.config, "heldout").read(np.arange(60))
    np.save(tmp_path / "odd.npy", run.config.data.levels - 1 - x)
    out = tmp_path / "scores.npz"
    flags = ["--num_examples=60", "--num_steps=2", f"--out={out}", "--format=pdf"]
    done = command("detect", f"--workdir={workdir}", f"--odd={tmp_path}/odd.npy", *flags)
    assert done.code == 0, done.err
    assert done.results["num_fit"] == done.results["num_normal"] == 30 and done.results["num_odd"] == 60
    assert done.results["auroc"]["nearest"] > 0.99  # inverted images are far away in pixels
    assert set(done.results["auroc"]) == set(done.results["fpr95"]) == set(done.results["auroc_train"])
    assert done.results["picture"] == str(out.with_suffix(".pdf")) and out.with_suffix(".pdf").exists()
    assert not out.with_suffix(".png").exists()
    with np.load(out) as file:
        for score, value in done.results["auroc"].items():
            normal, odd = file[f"{score}_normal"], file[f"{score}_odd"]
            assert np.isfinite(odd).all() and detection.auroc(normal, odd) == pytest.approx(value, abs=1e-12)


def test_each_class_against_the_others(run):
    """By a denoiser that is right only with the label of an example: the gain by the label tells the class."""
    config = run.config.copy_and_resolve_references()
    configs.put(config, "network.label_dropout", 0.1)
    held = sources.source(config, "heldout")
    x, known = subset(held, 60).read(np.arange(60))
    stored = sources.make_to_model(config)(jnp.asarray(x), jax.random.split(jax.random.key(0), len(x)))

    def predict(params, x_t, level, label=None, keys=None):
        nearest = jnp.argmin(jnp.square(x_t[:, None] - stored * expand(level.alpha, x_t)[:, None]).sum((2, 3, 4)), 1)
        right = expand(label == jnp.asarray(known)[nearest], x_t)
        x0 = jnp.where(right, stored[nearest], 0)
        return Prediction(x0, (x_t - expand(level.alpha, x_t) * x0) / expand(level.sigma, x_t), None)

    other = run._replace(config=config, experiment=run.experiment._replace(predict=predict))
    found, values = detection.detect_classes(other, 60)
    assert found["auroc"]["label_gain"] > 0.99 and found["auroc"]["label_margin"] > 0.99
    assert np.mean(found["auroc_by_class"]["label_gain"]) == pytest.approx(found["auroc"]["label_gain"])
    assert values["bits_3"].shape == (60,)
    with pytest.raises(ValueError, match="label_dropout"):
        detection.detect_classes(run)


def test_labels_are_compared_with_the_same_noise(run):
    """By a denoiser that ignores the label, whose errors depend on the noise alone."""

    def zero(params, x_t, level, label=None, keys=None):
        return Prediction(0 * x_t, x_t * expand(1 / level.sigma, x_t), None)

    config = run.config.copy_and_resolve_references()
    configs.put(config, "network.label_dropout", 0.1)
    other = run._replace(config=config, experiment=run.experiment._replace(predict=zero))
    _, values = detection.detect_classes(other, 60)
    for name in ("label_gain_0", "label_margin_3"):
        np.testing.assert_allclose(values[name], 0, atol=1e-5)
    with pytest.raises(ValueError, match="classes"):
        detection.detect_classes(other, 1)


@pytest.mark.parametrize("spec", ["none", "toy2d:tiny", "nothing.npy"])
def test_odd_images_that_do_not_fit_or_are_not_there(run, tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)):
        detection.odd_source(run, spec)


@pytest.mark.parametrize("name, shade", [("folder", 0), ("tfds", 0), ("digits", 255)])
def test_odd_image_files_are_read_as_those_of_the_run(tmp_path, name, shade):
    """Transparent images lie over the colour of the run's own, so that no score tells the background."""
    Image.new("RGBA", (20, 8)).save(tmp_path / "0.png")
    deep = np.full((8, 8), 2047, np.uint16)
    Image.fromarray(deep).save(tmp_path / "1.png")
    config = configs.load("digits:tiny")
    config.data.update(name=name, levels=256, shape=(8, 8, 1))
    config.data.folder.update(alpha="black", white_point=4095, resize="none", filter="box")
    config.data.tfds.update(alpha="black")
    x, _ = detection.odd_source(trained.Run("w", 1, "none", config, None, None), tmp_path).read(np.arange(2))
    assert (x[0] == shade).all() and (x[1] == (127 if name == "folder" else 7)).all()


def test_too_few_images_and_other_shapes(run):
    few = from_arrays("few", np.zeros((5, 8, 8, 1), np.uint8), None, run.config.data.levels, 0)
    wide = from_arrays("wide", np.zeros((50, 8, 9, 1), np.uint8), None, run.config.data.levels, 0)
    for odd in (few, wide):
        with pytest.raises(ValueError, match=r"detect|odd"):
            detection.detect(run, odd)
    binomial = run._replace(
        config=run.config.copy_and_resolve_references(), experiment=run.experiment._replace(process=BinomialProcess())
    )
    configs.put(binomial.config, "process.name", "binomial")
    with pytest.raises(ValueError, match=r"process\.name"):
        detection.detect(binomial, few)


@pytest.mark.parametrize("levels", [17, 0])
def test_the_picture_has_the_oddest_images(levels, run, tmp_path, monkeypatch):
    """The score is the value of the image here; of 60 images 20 are scored. Floats are drawn too."""
    x = np.arange(60) % 17 if levels else np.linspace(-1, 1, 60)
    odd = from_arrays("odd", np.broadcast_to(x[:, None, None, None], (60, 8, 8, 1)), None, levels, 0)
    scored = subset(odd, 20).read(np.arange(20))[0][:, 0, 0, 0].astype(float)
    values = {f"{detection.SHOWN}_odd": scored, f"{detection.SHOWN}_normal": scored[::-1]}
    monkeypatch.setattr(detection, "detect", lambda *_: ({"auroc": {detection.SHOWN: 0.5}}, values))
    drawn = []
    draw = detection.plots.detection
    monkeypatch.setattr(detection.plots, "detection", lambda *given: drawn.append(given[3]) or draw(*given))
    run.config.data.levels, before = levels, run.config.data.levels
    try:
        detection.report(run, odd, tmp_path / "scores.npz", 20)
    finally:
        run.config.data.levels = before
    least, most = (images[:, 0, 0, 0] for images in drawn[0].values())
    np.testing.assert_allclose(least, np.sort(scored)[:10])
    np.testing.assert_allclose(most, np.sort(scored)[:-11:-1])
