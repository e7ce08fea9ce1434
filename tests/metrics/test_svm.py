"""Confidence of the SVM in samples that are good, bad, or all of one class."""

import numpy as np
import pytest

from diffusion_jax.data.embedded import digits
from diffusion_jax.metrics import svm
from diffusion_jax.metrics.svm import svm_confidence


@pytest.fixture(scope="module")
def real():
    return [s.read(np.arange(s.size)) for s in (digits("train"), digits("heldout"))]


def test_heldout_digits_have_ratio_one_and_blends_less(real):
    train, heldout = real
    good = svm_confidence(train, heldout, heldout[0])
    assert good["svm_confidence_ratio"] == 1 and good["svm_rarest_class"] > 0.05
    assert good["heldout_svm_confidence"] > 0.9 and good["heldout_svm_accuracy"] > 0.97
    blends = ((heldout[0][1:].astype(int) + heldout[0][:-1]) // 2).astype(np.uint8)
    assert svm_confidence(train, heldout, blends)["svm_confidence_ratio"] < 0.98
    noise = np.random.default_rng(0).integers(0, 17, (200, 8, 8, 1)).astype(np.uint8)
    # an SVM can be confident in noise, hence the second metric
    assert svm_confidence(train, heldout, noise)["svm_rarest_class"] == 0


def test_diversity_does_not_depend_on_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 4000)
    x = rng.standard_normal((8000, 3)) * np.where(label, 1.0, 10.0)[:, None]
    unequal = np.concatenate([np.arange(400), np.arange(4000, 8000)])
    real, samples = (x, label), (x[unequal], label[unequal])
    assert svm.class_diversity(real, samples) == pytest.approx(1, abs=0.06)  # 3/sqrt(1200 / 2): the 400 count most
    assert np.isnan(svm.class_diversity((np.ones((4, 1)), np.zeros(4)), (np.ones((4, 1)), np.zeros(4))))


def test_samples_of_one_class_leave_the_others_empty(real):
    train, heldout = real
    ones = heldout[0][heldout[1] == 1]
    assert svm_confidence(train, heldout, ones)["svm_rarest_class"] == 0
