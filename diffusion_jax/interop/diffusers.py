"""Weights of the U-Net of Ho et al. 2020 under the names and layouts of Hugging Face diffusers' UNet2DModel.

The two agree for UNet2DModel with DownBlock2D, AttnDownBlock2D, UpBlock2D, AttnUpBlock2D, downsample_padding 0,
freq_shift 1, flip_sin_to_cos false, norm_eps 1e-6 and attention heads as in `UNet.heads` (attention_head_dim null
is one head; diffusers' own default of 8 channels a head has the same shapes and other results).
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffusion_jax.networks.unet import UNet

Path = tuple[str, ...]
Transform = Literal["copy", "linear", "pointwise", "conv"]
"""How a tensor of diffusers becomes a parameter: as it is; (O,I) -> (I,O); (O,I,1,1) -> (I,O); OIHW -> HWIO."""

_BLOCK = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OUTSIDE = {
    ("temb", "dense0"): "time_embedding.linear_1",
    ("temb", "dense1"): "time_embedding.linear_2",
    ("temb", "label"): "class_embedding",
    ("conv_in",): "conv_in",
    ("norm_out",): "conv_norm_out",
    ("conv_out",): "conv_out",
}
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def name_map(unet: UNet, shape: tuple[int, ...]) -> dict[str, tuple[Path, Transform]]:
    """diffusers' tensor name -> (path of the parameter, how the tensor is transformed), for data of `shape` (H,W,C)."""
    return {
        _name(path, len(unet.multipliers)): (path, _transform(path, len(s))) for path, s in _shapes(unet, shape).items()
    }


def to_flax(tensors: Mapping[str, np.ndarray], unet: UNet, shape: tuple[int, ...]) -> dict[str, Any]:
    """The parameters of `unet`, for data of `shape` (H,W,C), from tensors by diffusers' names, old or new.

    Values and dtypes stay as they are. Raises ValueError if tensors are missing, unknown or of another shape.
    """
    tensors = {".".join(_OLD_NAMES.get(part, part) for part in name.split(".")): t for name, t in tensors.items()}
    names, shapes = name_map(unet, shape), _shapes(unet, shape)
    _compare("the tensors", tensors, {name: _torch_shape(shapes[path], kind) for name, (path, kind) in names.items()})
    return traverse_util.unflatten_dict({path: _to_flax(tensors[name], kind) for name, (path, kind) in names.items()})


def from_flax(params: Mapping[str, Any], unet: UNet, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Tensors by diffusers' names from the parameters of `unet`, the inverse of `to_flax`.

    Raises ValueError if parameters are missing, unknown or of another shape.
    """
    flat = {"/".join(path): np.asarray(value) for path, value in traverse_util.flatten_dict(params).items()}
    _compare("params", flat, {"/".join(path): s for path, s in _shapes(unet, shape).items()})
    return {name: _to_torch(flat["/".join(path)], kind) for name, (path, kind) in name_map(unet, shape).items()}


@functools.cache
def _shapes(unet: UNet, shape: tuple[int, ...]) -> dict[Path, tuple[int, ...]]:
    """The shapes of the parameters of `unet` by path; only traced, nothing is computed."""
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(unet.init, jax.random.key(0), x, time)["params"]
    return {path: value.shape for path, value in traverse_util.flatten_dict(params).items()}


def _name(path: Path, levels: int) -> str:
    """diffusers' name of the parameter at `path`; it counts the levels of the way up from the lowest."""
    *module, leaf = path
    end = "bias" if leaf == "bias" else "weight"
    if tuple(module) in _OUTSIDE:
        return f"{_OUTSIDE[tuple(module)]}.{end}"
    stage, part, layer = module
    if stage == "mid":
        place, first = "mid_block", 1
    else:
        way, level = stage.split("_")
        place, first = f"{way}_blocks.{level if way == 'down' else levels - 1 - int(level)}", 0
    if part in ("downsample", "upsample"):
        return f"{place}.{part}rs.0.{layer}.{end}"
    kind, number = part.split("_")
    if kind == "attn":
        return f"{place}.attentions.{int(number) - first}.{_ATTENTION[layer]}.{end}"
    return f"{place}.resnets.{int(number) - first}.{_BLOCK.get(layer, layer)}.{end}"


def _transform(path: Path, axes: int) -> Transform:
    if path[-1] != "kernel":
        return "copy"
    if axes == 4:
        return "conv"
    return "pointwise" if path[-2] == "nin_shortcut" else "linear"


def _torch_shape(shape: tuple[int, ...], transform: Transform) -> tuple[int, ...]:
    return _to_torch(np.broadcast_to(np.float32(0), shape), transform).shape


def _to_torch(value: np.ndarray, transform: Transform) -> np.ndarray:
    if transform == "conv":
        value = value.transpose(3, 2, 0, 1)
    elif transform == "linear":
        value = value.T
    elif transform == "pointwise":
        value = value.T[:, :, None, None]
    return np.ascontiguousarray(value)


def _to_flax(value: np.ndarray, transform: Transform) -> np.ndarray:
    if transform == "conv":
        value = value.transpose(2, 3, 1, 0)
    elif transform == "linear":
        value = value.T
    elif transform == "pointwise":
        value = value[:, :, 0, 0].T
    return np.ascontiguousarray(value)


def _compare(what: str, found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError, naming the first few of each, if the arrays found are not exactly those expected."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{name} {found[name].shape} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name]
    ]
    faults = [
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in (("missing", missing), ("unknown", extra), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ValueError(f"diffusers: {what} do not fit the network: {'; '.join(faults)}; check its options")
