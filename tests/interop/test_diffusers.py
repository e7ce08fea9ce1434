import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.interop import diffusers, diffusers_options
from diffusion_jax.networks.unet import UNet

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CIFAR, CIFAR_SHAPE = UNet(3, dtype="float64"), (32, 32, 3)
SMALL = UNet(2, channels=4, multipliers=(1, 2, 3), blocks=1, attention=(8, 4), num_classes=3)
SMALL_SHAPE = (8, 12, 1)


def shapes_of(net, shape):
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x, time)["params"]


def drawn_params(net, shape):
    random = np.random.RandomState(0)
    return jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes_of(net, shape))


@pytest.fixture(scope="module")
def golden():
    """Outputs of diffusers, and its weights as parameters: the same generator draws them on both sides."""
    draw = runpy.run_path(str(GOLDEN / "make_diffusers_unet.py"))["draw"]
    with jax.enable_x64(True):
        empty = jax.tree.map(lambda a: np.zeros(a.shape, bool), shapes_of(CIFAR, CIFAR_SHAPE))
        tensors = diffusers.from_flax(empty, CIFAR, CIFAR_SHAPE)
        weights = draw({name: tensor.shape for name, tensor in tensors.items()})
        params = jax.tree.map(jnp.asarray, diffusers.to_flax(weights, CIFAR, CIFAR_SHAPE))
    with np.load(GOLDEN / "diffusers_unet.npz") as file:
        return params, dict(file)


def output(golden, net=CIFAR, later=0.0):
    """Output of the net, with diffusers' weights and inputs.

    Computed operation by operation, as compiling each variant is slower.
    """
    params, file = golden
    with jax.enable_x64(True):
        y = net.apply({"params": params}, jnp.asarray(file["x"]), jnp.asarray(file["time"] + later), None, None)
        assert y.dtype == jnp.float64
        return np.asarray(y)


def error(golden, net=CIFAR, later=0.0):
    return np.max(np.abs(output(golden, net, later) - golden[1]["output"]))


@pytest.mark.slow
def test_equals_diffusers(golden):
    y, file = output(golden), golden[1]
    np.testing.assert_allclose(y, file["output"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(y, file["output_float32_time"], rtol=0, atol=5e-5)  # 5e-6 is usual


@pytest.mark.parametrize(
    "option",
    [{"downsample_padding": 1}, {"norm_eps": 1e-5}, {"cos_first": True}, {"freq_shift": 0}, {"heads": 256 // 8}],
    ids=str,
)
def test_a_mistaken_option_would_show(golden, option):
    assert error(golden, CIFAR.clone(**option)) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["example", "classes"])
def test_the_default_options_of_diffusers_give_its_outputs(name, tmp_path, x64):
    """Models: its training example, and one with classes, a learned variance and heads of 8 channels."""
    with np.load(GOLDEN / "diffusers_options.npz") as file:
        golden = {key.removeprefix(f"{name}/"): file[key] for key in file.files if key.startswith(name)}
    (tmp_path / "config.json").write_text(str(golden["config"]))
    net, shape = diffusers_options.read_unet(tmp_path)
    assert net.num_classes == (5 if name == "classes" else 0)
    net = net.clone(dtype="float64")
    sizes = {key: value.shape for key, value in diffusers.from_flax(drawn_params(net, shape), net, shape).items()}
    if net.num_classes:
        rows, width = sizes[diffusers.LABELS]
        sizes[diffusers.LABELS] = (rows - 1, width)
    weights = runpy.run_path(str(GOLDEN / "make_diffusers_unet.py"))["draw"](sizes)
    params = jax.tree.map(jnp.asarray, diffusers.to_flax(weights, net, shape))
    label = jnp.asarray(golden["label"]) if net.num_classes else None

    output = net.apply({"params": params}, jnp.asarray(golden["x"]), jnp.asarray(golden["time"]), label, None)
    np.testing.assert_allclose(output, golden["output"], rtol=0, atol=1e-12)
    if net.num_classes:  # the absent label adds nothing
        assert not params["temb"]["label"]["embedding"][-1].any()


def test_time_off_by_one_would_show(golden):
    assert error(golden, later=1.0) > 1e-5


def test_names_of_diffusers():
    names = diffusers.name_map(CIFAR, CIFAR_SHAPE)
    assert len(names) == 328
    assert len({path for path, _ in names.values()}) == 328
    assert names["down_blocks.1.attentions.0.to_out.0.weight"] == (("down_1", "attn_0", "proj_out", "kernel"), "linear")
    assert names["up_blocks.0.resnets.2.conv_shortcut.weight"] == (
        ("up_3", "block_2", "nin_shortcut", "kernel"),
        "pointwise",
    )
    assert names["up_blocks.2.upsamplers.0.conv.weight"] == (("up_1", "upsample", "conv", "kernel"), "conv")
    assert names["mid_block.resnets.1.norm2.weight"] == (("mid", "block_2", "norm2", "scale"), "copy")
    assert names["time_embedding.linear_2.bias"] == (("temb", "dense1", "bias"), "copy")
    assert diffusers.name_map(SMALL, SMALL_SHAPE)["class_embedding.weight"] == (("temb", "label", "embedding"), "copy")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back_is_the_identity(dtype):
    params = jax.tree.map(lambda a: a.astype(dtype), drawn_params(SMALL, SMALL_SHAPE))
    tensors = diffusers.from_flax(params, SMALL, SMALL_SHAPE)
    assert all(tensor.flags.c_contiguous and tensor.dtype == dtype for tensor in tensors.values())
    back = diffusers.to_flax(tensors, SMALL, SMALL_SHAPE)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), back, params)


def test_shapes_of_tensors_are_those_of_torch():
    tensors = diffusers.from_flax(drawn_params(SMALL, SMALL_SHAPE), SMALL, SMALL_SHAPE)
    assert tensors["conv_in.weight"].shape == (4, 1, 3, 3)
    assert tensors["down_blocks.1.resnets.0.conv_shortcut.weight"].shape == (8, 4, 1, 1)
    assert tensors["time_embedding.linear_1.weight"].shape == (16, 4)
    assert tensors["class_embedding.weight"].shape == (4, 16)


def test_old_names_of_attention_are_read():
    tensors = diffusers.from_flax(drawn_params(SMALL, SMALL_SHAPE), SMALL, SMALL_SHAPE)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {functools.reduce(lambda n, new: n.replace(new, old[new]), old, name): t for name, t in tensors.items()}
    assert "mid_block.attentions.0.proj_attn.weight" in renamed
    back = diffusers.to_flax(renamed, SMALL, SMALL_SHAPE)
    jax.tree.map(np.testing.assert_array_equal, back, drawn_params(SMALL, SMALL_SHAPE))


def test_tensors_that_do_not_fit_are_named():
    tensors = diffusers.from_flax(drawn_params(SMALL, SMALL_SHAPE), SMALL, SMALL_SHAPE)
    for name in ("conv_in.bias", "conv_in.weight", "conv_out.bias", "conv_out.weight"):
        del tensors[name]
    tensors["ema.decay"] = np.zeros(())
    tensors["conv_norm_out.bias"] = np.zeros(5)
    with pytest.raises(ValueError) as caught:
        diffusers.to_flax(tensors, SMALL, SMALL_SHAPE)
    for name in ("conv_in.bias", "ema.decay", "conv_norm_out.bias"):
        assert name in str(caught.value)


def test_parameters_that_do_not_fit_are_named():
    params = drawn_params(SMALL, SMALL_SHAPE)
    with pytest.raises(ValueError, match="conv_in/kernel"):
        diffusers.from_flax(params, SMALL, (8, 12, 3))
    del params["mid"]["attn_1"]["q"]
    with pytest.raises(ValueError, match="mid/attn_1/q/bias, mid/attn_1/q/kernel"):
        diffusers.from_flax(params, SMALL, SMALL_SHAPE)
