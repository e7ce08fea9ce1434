"""Inception score: its extremes, and the value of torch-fidelity."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from diffusion_jax.metrics.inception_score import inception_score

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def test_extremes_are_one_and_the_number_of_classes():
    assert inception_score(np.tile([1.0, 2.0, 3.0], (8, 1))) == pytest.approx(1, rel=1e-12)
    assert inception_score(1e4 * np.eye(4)) == pytest.approx(4, rel=1e-12)
    assert inception_score(1e4 * np.eye(4)[[0, 0, 1, 1]]) == pytest.approx(2, rel=1e-12)


def test_score_is_the_mean_over_splits():
    assert inception_score(1e4 * np.eye(4)[[0, 0, 1, 1]], splits=2) == pytest.approx(1, rel=1e-12)
    with pytest.raises(ValueError, match="splits=5"):
        inception_score(np.eye(4), splits=5)


@pytest.mark.parametrize("splits", [1, 10])
def test_equals_torch_fidelity(splits):
    logits = runpy.run_path(str(GOLDEN / "make_metrics.py"))["draw"]()[2]
    expected = json.loads((GOLDEN / "metrics.json").read_text())[f"inception_score_{splits}"]
    assert inception_score(logits, splits) == pytest.approx(expected, rel=1e-9)
