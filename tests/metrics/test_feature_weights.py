"""Weights of feature networks: round trip, hash, and what does not fit the network."""

import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.embedded import digits
from diffusion_jax.metrics import feature_networks, feature_weights
from diffusion_jax.metrics.digit_features import DigitFeatures

ROOT = pathlib.Path(__file__).parent.parent.parent
PARAMS = {"a": {"kernel": np.arange(6.0).reshape(2, 3)}, "b": {"bias": np.zeros(3, np.float32)}}
SHAPES = {("a", "kernel"): (2, 3), ("b", "bias"): (3,)}


def test_round_trip_and_hash(tmp_path):
    feature_weights.write(tmp_path / "w.npz", PARAMS)
    params, digest = feature_weights.read(tmp_path / "w.npz", SHAPES)
    np.testing.assert_array_equal(params["a"]["kernel"], PARAMS["a"]["kernel"])
    feature_weights.write(tmp_path / "again.npz", dict(reversed(PARAMS.items())))
    assert feature_weights.read(tmp_path / "again.npz", SHAPES)[1] == digest
    feature_weights.write(tmp_path / "other.npz", PARAMS | {"b": {"bias": np.full(3, 1e-7, np.float32)}})
    assert feature_weights.read(tmp_path / "other.npz", SHAPES)[1] != digest


def test_weights_that_do_not_fit_are_refused(tmp_path):
    feature_weights.write(tmp_path / "w.npz", PARAMS)
    with pytest.raises(ValueError, match="c/bias"):
        feature_weights.read(tmp_path / "w.npz", SHAPES | {("c", "bias"): (3,)})
    (tmp_path / "w.npz").write_bytes((tmp_path / "w.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"w\.npz"):
        feature_weights.read(tmp_path / "w.npz", SHAPES)
    with pytest.raises(ValueError, match=r"features=digits.*\(8, 8, 3\)"):
        feature_networks.digits((8, 8, 3), 17)


def test_the_shipped_network_classifies_heldout_digits():
    assert feature_weights.DIGITS.stat().st_size < 300_000
    script = runpy.run_path(str(ROOT / "launch" / "digit_features.py"))
    network = feature_networks.digits((8, 8, 1), 17)
    assert script["accuracy"](network.params) > 0.97
    x = digits("heldout").read(np.arange(5))[0] / 8 - 1
    features, logits = DigitFeatures().apply({"params": network.params}, x)
    assert features.shape == (5, 64) and logits.shape == (5, 10)


def test_its_training_learns_and_is_deterministic():
    script = runpy.run_path(str(ROOT / "launch" / "digit_features.py"))
    one, two = script["train"](12), script["train"](12)
    np.testing.assert_array_equal(one["conv2"]["kernel"], two["conv2"]["kernel"])
    assert script["accuracy"](script["train"](80)) > 0.5


def test_the_shipped_network_of_grey_images_classifies_digits_of_another_source():
    """Scans of 8 x 8 pixels, enlarged to the 20 x 20 of MNIST; it was trained on none of them."""
    assert feature_weights.GREY28.stat().st_size < 600_000
    x0, label = digits("heldout").read(np.arange(200))
    images = [Image.fromarray((15.9 * x[..., 0]).astype(np.uint8)).resize((20, 20), Image.BICUBIC) for x in x0]
    x = np.pad(np.stack(images), ((0, 0), (4, 4), (4, 4)))[..., None]
    network = feature_networks.on_stored(feature_networks.grey28((28, 28, 1), 256), 256)
    features, logits = network.apply(network.params, x)
    assert features.shape == (200, 128) and logits.shape == (200, 20)
    print("ACC", (np.argmax(logits, 1) == label).mean())
    assert (np.argmax(logits, 1) == label).mean() > 0.5
    with pytest.raises(ValueError, match=r"features=grey28.*\(8, 8, 1\)"):
        feature_networks.grey28((8, 8, 1), 17)
