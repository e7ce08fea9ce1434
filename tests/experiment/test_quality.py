"""Questions of evaluation that the data of a run cannot answer: refused before training, skipped afterwards."""

import types

import numpy as np
import pytest

from diffusion_jax import config as configs
from diffusion_jax.experiment import quality, sources
from diffusion_jax.runs import trained

LABELS = np.arange(40) % 2


def config(folder, label=None, size=40, shape=(4, 4, 1), fraction=0.25, levels=256, **evaluation):
    """The config of arrays in a file."""
    x = np.random.default_rng(0).integers(0, 256, (size, *shape)).astype(np.uint8 if levels else np.float32)
    x = x if levels else x / 255
    np.savez(folder / "x.npz", x=x, **({} if label is None else {"label": label}))
    c = configs.load("digits:tiny")
    configs.put(c, "data.name", "arrays")
    c.data.arrays.update(path=str(folder / "x.npz"), key="x", heldout_fraction=fraction, levels=levels)
    c.data.arrays.label_key = "" if label is None else "label"
    c.eval.update(svm=False, quality_samples=8, **evaluation)
    return sources.resolve(c, sources.source(c, "train"))


SVM = [
    ({}, "classes"),
    ({"label": np.zeros(40, int)}, "classes"),
    ({"label": np.minimum(np.arange(40), 37) // 37}, "5"),
    ({"label": LABELS, "fraction": 0.0}, "held-out"),
]


@pytest.mark.parametrize(("data", "why"), SVM)
def test_an_svm_unsuitable_for_the_data_is_refused_and_skipped(tmp_path, data, why):
    c = config(tmp_path, **data)
    quality.check_evaluation(c)
    c.eval.svm = True
    with pytest.raises(ValueError, match=r"eval\.svm") as caught:
        quality.check_evaluation(c)
    assert why in str(caught.value) and "\n" not in str(caught.value)
    assert why in quality.svm_refusal(c, decode=True)


def test_an_svm_of_two_classes_is_accepted_for_images_and_vectors(tmp_path):
    for kind in ({}, {"shape": (3,)}, {"shape": (3,), "levels": 0}):
        c = config(tmp_path, label=LABELS, **kind)
        c.eval.svm = True
        quality.check_evaluation(c)


def test_data_without_a_heldout_split_have_no_heldout_loss(tmp_path):
    c = config(tmp_path, fraction=0.0)
    assert sources.heldout_or_none(c) is None
    assert trained.heldout_loss(types.SimpleNamespace(config=c)) == {}
    configs.put(c, "data.name", sources.IN_MEMORY)
    assert trained.heldout_loss(types.SimpleNamespace(config=c)) == {}


METRICS = [
    ({"quality_metrics": ("is",)}, "is"),
    ({"quality_metrics": ("nn",), "fraction": 0.0}, "nn"),
    ({"quality_metrics": ("pr",), "size": 6}, "pr"),
    ({"quality_metrics": ("fd",)}, "fd"),
    ({"features": "inception", "shape": (3,)}, "inception"),
    ({"features": "inception", "shape": (4, 4, 2)}, "inception"),
    ({"features": "digits"}, "digits"),
    ({"features": "digits", "shape": (3,)}, "digits"),
]


@pytest.mark.parametrize(("data", "named"), METRICS)
def test_a_metric_that_cannot_be_computed_is_refused_before_sampling(tmp_path, data, named):
    with pytest.raises(ValueError) as caught:
        quality.check_monitor(config(tmp_path, **data))
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_metrics_of_vectors_and_of_classifying_features_are_accepted(tmp_path):
    quality.check_monitor(config(tmp_path, shape=(3,), quality_metrics=("fid", "kid", "pr", "nn")))
    c = config(tmp_path, shape=(8, 8, 1))
    network = quality.feature_network("digits", (8, 8, 1), 256)
    quality.check_metrics("metrics", c, ["is", "fid"], network)
