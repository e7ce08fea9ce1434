import functools
import sys

import jax
import numpy as np
import pytest
import saved_models

from diffusion_jax.interop import ddpm_tf1
from diffusion_jax.networks.unet import UNet

NET, SHAPE = UNet(3, channels=32, multipliers=(1, 2), blocks=1, attention=(4,), groups=32), (8, 8, 3)


@pytest.fixture(scope="module")
def variables():
    """A checkpoint as Ho's code leaves it: variables, their averages, the optimiser's, and counters."""
    params, averages = saved_models.drawn_params(NET, SHAPE, 0), saved_models.drawn_params(NET, SHAPE, 1)
    return params, averages, saved_models.tf1_variables(params, averages)


def test_variables_and_averages_are_read(variables, tmp_path):
    params, averages, stored = variables
    found = ddpm_tf1.read(saved_models.write_tf1(tmp_path / "model.ckpt-7", stored), NET, SHAPE)
    for tree, expected in zip(found, (params, averages), strict=True):
        jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), tree, expected)


@pytest.mark.parametrize("scope", ["", "a/b/"])
def test_the_outer_scope_may_be_any(scope, variables, tmp_path):
    params, _, stored = variables
    moved = {name.replace("model/", scope): value for name, value in stored.items() if "Average" not in name}
    found, averages = ddpm_tf1.read(saved_models.write_tf1(tmp_path / "m", moved), NET, SHAPE)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert averages is None


def test_names_of_the_cifar_network():
    names = ddpm_tf1.name_map(UNet(3), (32, 32, 3))
    assert len(names) == 328 and len(set(names.values())) == 328
    assert names["temb/dense0/W"] == ("temb", "dense0", "kernel")
    assert names["down_1/attn_0/norm/gamma"] == ("down_1", "attn_0", "norm", "scale")
    assert names["down_1/attn_0/proj_out/b"] == ("down_1", "attn_0", "proj_out", "bias")
    assert names["up_3/block_2/nin_shortcut/W"] == ("up_3", "block_2", "nin_shortcut", "kernel")
    assert names["mid/block_2/norm2/beta"] == ("mid", "block_2", "norm2", "bias")
    assert names["up_1/upsample/conv/b"] == ("up_1", "upsample", "conv", "bias")


def test_mismatched_variables_are_named(variables, tmp_path):
    _, _, stored = variables
    changed = {name: value for name, value in stored.items() if not name.startswith("model/conv_in/b")}
    changed |= {"model/extra/W": np.zeros(1, np.float32), "model/norm_out/beta": np.zeros(5, np.float32)}
    with pytest.raises(ValueError) as caught:
        ddpm_tf1.read(saved_models.write_tf1(tmp_path / "m", changed), NET, SHAPE)
    for name in ("conv_in/b", "extra/W", "norm_out/beta"):
        assert name in str(caught.value)


def test_averages_have_to_be_complete(variables, tmp_path):
    _, _, stored = variables
    changed = {name: value for name, value in stored.items() if name != "model/conv_in/b" + ddpm_tf1.AVERAGE}
    with pytest.raises(ValueError, match=r"ExponentialMovingAverage.*conv_in/b"):
        ddpm_tf1.read(saved_models.write_tf1(tmp_path / "m", changed), NET, SHAPE)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["global_step", "model/conv_in/V"], "conv_in/W"),
        (["a/conv_in/W", "b/conv_in/W"], "/a/, /b/"),
    ],
)
def test_other_checkpoints_are_refused(names, message, tmp_path):
    prefix = saved_models.write_tf1(tmp_path / "m", dict.fromkeys(names, np.zeros(2, np.float32)))
    with pytest.raises(ValueError, match=message):
        ddpm_tf1.read(prefix, NET, SHAPE)


def test_no_checkpoint_and_a_broken_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.index"):
        ddpm_tf1.read(str(tmp_path / "none"), NET, SHAPE)
    (tmp_path / "broken.index").write_bytes(b"not an index")
    with pytest.raises(ValueError, match="broken"):
        ddpm_tf1.read(str(tmp_path / "broken"), NET, SHAPE)


def test_missing_tensorflow_is_an_error_with_the_package(monkeypatch, tmp_path):
    (tmp_path / "m.index").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match=r"diffusion_jax\[tf\]"):
        ddpm_tf1.read(str(tmp_path / "m"), NET, SHAPE)
