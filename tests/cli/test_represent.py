"""Features are those of the network, clusters and probes agree with the truth, and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from diffusion_jax.analysis import representation
from diffusion_jax.experiment import sources
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process.base import expand
from diffusion_jax.process.binomial import BinomialProcess
from diffusion_jax.runs import trained


@pytest.fixture(scope="module")
def run(workdir):
    return trained.load(str(workdir), bound={"num_steps": 2})


def test_features_are_the_outputs_of_the_blocks(run):
    """The first convolution from its weights, and the last one, which predicts eps."""
    size = 3
    level = jax.tree.map(lambda field: jnp.full(size, field[0], jnp.float32), representation.feature_levels(run))
    x = jax.random.normal(jax.random.key(0), (size, *run.config.data.shape))
    arguments = run.params, x, level, jnp.full(size, -1), None
    found = representation.capturing(run.experiment.predict)(*arguments)
    assert {"conv_in", "down_0", "mid", "up_0", "conv_out"} <= set(found)
    np.testing.assert_allclose(found["conv_out"], run.experiment.predict(*arguments).eps, rtol=1e-5, atol=1e-6)
    weights = run.params["net"]["conv_in"]
    layout = jax.lax.conv_dimension_numbers(x.shape, weights["kernel"].shape, ("NHWC", "HWIO", "NHWC"))
    by_hand = jax.lax.conv_general_dilated(x, weights["kernel"], (1, 1), "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(found["conv_in"], by_hand + weights["bias"], rtol=1e-4, atol=1e-5)


def test_levels_of_features_are_denser_near_the_data(run):
    found = representation.feature_levels(run)
    np.testing.assert_allclose(found.t, [0.25, 0.5])  # (1/3)² and (2/3)², at levels of the chain of 4
    continuous = run.config.copy_and_resolve_references()
    continuous.process.num_steps = 0
    assert found.log_alpha.shape == (2,)
    np.testing.assert_allclose(representation.feature_levels(run._replace(config=continuous)).t, [1 / 9, 4 / 9])


def test_pooling_over_quarters():
    h = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    parts = [h[:, a : a + 2, b : b + 3].mean((1, 2)) for a in (0, 2) for b in (0, 3)]
    np.testing.assert_allclose(representation.pooled(jnp.asarray(h)), np.concatenate(parts, -1), rtol=1e-6)
    assert representation.pooled(jnp.ones((2, 1, 1, 5))).shape == (2, 5)


def test_clusters_and_probes_of_separate_classes():
    generator = np.random.default_rng(0)
    label = np.repeat([3, 5, 9], 40)
    x = np.eye(3)[np.searchsorted([3, 5, 9], label)] * 10 + generator.standard_normal((120, 3)) * 0.1
    assert representation.cluster(x, label) == pytest.approx({"nmi": 1, "ari": 1, "accuracy": 1})
    halves = {"train": x[::2], "heldout": x[1::2]}, {"train": label[::2], "heldout": label[1::2]}
    assert representation.probe(*halves).mean() == 1
    assert representation.mixture(x, label) == pytest.approx({"nmi": 1, "ari": 1, "accuracy": 1})
    shuffled = generator.permutation(label)
    assert representation.cluster(x, shuffled)["nmi"] < 0.15


def test_clusters_that_exist_are_stable():
    """Two random halves find the same three clusters. Within one Gaussian they cut in different places."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((300, 6))
    apart = np.eye(6)[generator.integers(0, 3, 300)] * 10 + noise * 0.1
    assert representation.stability(apart, 3) == 1
    assert -0.1 < representation.stability(noise, 3) < 0.4
    with pytest.warns(ConvergenceWarning):  # two examples make no three clusters
        assert representation.stability(np.repeat(noise[:2], 50, axis=0), 3) == 0
    assert -1 <= representation.stability(noise[:5], 4) <= 1  # fewer than two examples of a cluster
    features = {("noise", 0.1): noise, ("apart", 0.5): apart}
    assert representation.clusters(features, generator.integers(0, 3, 300))["cluster_block"] == "apart"


def test_a_mixture_finds_classes_that_differ_in_spread_alone():
    """k-means cannot: both classes have the same mean."""
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1], 300)
    x = generator.standard_normal((600, 8)) * np.where(label, 6, 1)[:, None]
    assert representation.mixture(x, label)["accuracy"] > 0.97
    assert representation.cluster(x, label)["accuracy"] < 0.8


def test_the_classifier_finds_the_class_whose_prediction_is_right(run):
    """A denoiser that knows the examples, and predicts the right one for one class of each."""
    config = run.config.copy_and_resolve_references()
    source = sources.source(config, "heldout")._replace(size=12)
    x, _ = source.read(np.arange(12))
    wanted = (x.reshape(12, -1).astype(int).sum(1)) % config.data.classes

    def predict(params, x_t, level, label=None, keys=None):
        nearest = jnp.argmin(jnp.square(params["x0"][:, None] - x_t[None]).sum((2, 3, 4)), axis=0)
        x0 = params["x0"][nearest]
        x0 = jnp.where(expand(label == params["wanted"][nearest], x_t), x0, 3 - x0)
        return Prediction(x0, (x_t - expand(level.alpha, x_t) * x0) / expand(level.sigma, x_t), None)

    made = sources.make_to_model(config)
    known = {"x0": made(jnp.asarray(x), jax.random.split(jax.random.key(0), 12)), "wanted": jnp.asarray(wanted)}
    fake = run._replace(experiment=run.experiment._replace(predict=predict), params=known)
    lowest = representation._levels
    with pytest.MonkeyPatch.context() as patch:  # little noise, so that the example can be told from x_t
        patch.setattr(representation, "_levels", lambda run: jax.tree.map(lambda field: field[:1], lowest(run)))
        np.testing.assert_array_equal(representation.classify(fake, source), wanted)


def test_so_many_examples_are_classified(run, monkeypatch):
    generator, sizes = np.random.default_rng(0), []

    def classify(run, source):
        sizes.append(source.size)
        return source.read(np.arange(source.size))[1]

    features = {("mid", 0.5): generator.normal(size=(60, 4))}
    monkeypatch.setattr(representation, "features", lambda run, source: features)
    monkeypatch.setattr(representation, "classify", classify)
    conditional = run._replace(config=run.config.copy_and_resolve_references())
    conditional.config.network.conditional = True
    figures = representation.represent(conditional, 60, num_classified=20)
    assert sizes == [20] and figures["num_classified"] == 20 and figures["classifier_accuracy"] == 1
    assert "classifier_accuracy" not in representation.represent(conditional, 60, num_classified=0)


def test_the_gain_over_pixels_is_paired(run, monkeypatch):
    generator = np.random.default_rng(0)
    network, pixels, components = generator.integers(0, 2, (3, 60)).astype(float)
    answers = iter([network, pixels, components])
    features = {("mid", 0.5): generator.normal(size=(60, 4))}
    monkeypatch.setattr(representation, "features", lambda run, source: features)
    monkeypatch.setattr(representation, "probe", lambda x, label: next(answers))
    figures = representation.represent(run, 60, num_classified=0)
    assert figures["probe_accuracy"] == network.mean() and figures["pca_probe_accuracy"] == components.mean()
    assert figures["probe_gain"] == pytest.approx((network - pixels).mean())
    assert figures["probe_gain_stderr"] == pytest.approx((network - pixels).std(ddof=1) / np.sqrt(60))


def test_the_command(command, workdir):
    done = command("represent", f"--workdir={workdir}", "--num_examples=60", "--num_steps=1")
    assert done.code == 0, done.err
    names = {
        "mixture_nmi",
        "pixels_mixture_nmi",
        "probe_accuracy",
        "pixels_probe_accuracy",
        "cluster_nmi",
        "pixels_cluster_nmi",
        "cluster_accuracy",
    }
    assert names | {"probe_block", "probe_t", "cluster_block", "cluster_t"} <= set(done.results)
    assert 0 <= done.results["probe_accuracy"] <= 1
    assert done.results["pixels_probe_accuracy"] > 0.5


@pytest.mark.parametrize("key, value", [("data.classes", 0), ("process.name", "binomial")])
def test_runs_that_have_no_such_features(run, key, value):
    section, name = key.split(".")
    other = run._replace(config=run.config.copy_and_resolve_references())
    other.config[section][name] = value
    if value == "binomial":
        other = other._replace(experiment=other.experiment._replace(process=BinomialProcess()))
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        representation.represent(other)
