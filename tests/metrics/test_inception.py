"""Inception of the FID: its resize pixel by pixel, and the network against the PyTorch port."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest

from diffusion_jax.metrics import feature_networks, inception_weights
from diffusion_jax.metrics.inception import Inception, resize

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "inception.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("shape", [(3, 5), (8, 4), (13, 13)])
def test_resize_is_the_rule_of_tensorflow_1(shape):
    x, size = np.random.default_rng(0).uniform(0, 255, shape), 7

    def between(values, place):  # linear interpolation in a list of numbers
        low = int(place)
        after = values[min(low + 1, len(values) - 1)]
        return values[low] + (after - values[low]) * (place - low)

    scale_y, scale_x = (np.float32(old / size) for old in shape)
    expected = [
        [between([between(line, np.float32(j) * scale_x) for line in x], np.float32(i) * scale_y) for j in range(size)]
        for i in range(size)
    ]
    resized = resize(x[None, :, :, None].astype(np.float32), size)[0, :, :, 0]
    np.testing.assert_allclose(resized, expected, rtol=1e-5, atol=1e-3)


def test_resize_equals_the_pytorch_port(golden):
    x = golden["images"][:1, :, :, :1].astype(np.float32)
    np.testing.assert_allclose(resize(x)[0, ::5, ::5, 0], golden["resized"], atol=1e-4)


def test_equals_the_pytorch_port(golden):
    """Features of size 0.8 and logits of size 1.8, both to 1e-4."""
    tensors = runpy.run_path(str(GOLDEN / "make_inception.py"))["draw"](json.loads(str(golden["shapes"])))
    flat = inception_weights.folded(pathlib.Path("drawn"), tensors)
    expected = feature_networks.inception_shapes()
    assert {name: value.shape for name, value in flat.items()} == {"/".join(at): s for at, s in expected.items()}
    params = feature_networks.traverse_util.unflatten_dict({tuple(n.split("/")): v for n, v in flat.items()})
    features, logits = jax.jit(Inception().apply)({"params": params}, golden["images"].astype(np.float32))
    np.testing.assert_allclose(features, golden["features"], atol=1e-4)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    assert np.abs(golden["features"][0] - golden["features"][1]).max() > 0.1
