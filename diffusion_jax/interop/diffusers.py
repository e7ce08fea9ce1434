"""Conversion of U-Net weights to and from Hugging Face diffusers' UNet2DModel.

The networks agree for UNet2DModel with DownBlock2D, AttnDownBlock2D, UpBlock2D, AttnUpBlock2D and the options that
diffusers_options.py reads and writes. `UNet` has a last row of the label embedding for "no label". A model of diffusers
has that row only if it was trained with label dropout; without it the row is zeros.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from diffusion_jax.interop import fit
from diffusion_jax.networks.parameters import Path, check_shapes
from diffusion_jax.networks.unet import UNet


class Layout(NamedTuple):
    """Conversion of an array between the layouts of PyTorch and Flax."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_flax: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
    "copy": Layout(lambda w: w, lambda w: w),
    "linear": Layout(lambda w: w.T, lambda w: w.T),  # (I,O), (O,I)
    "pointwise": Layout(lambda w: w.T[:, :, None, None], lambda w: w[:, :, 0, 0].T),  # (I,O), (O,I,1,1)
    "conv": Layout(lambda w: w.transpose(3, 2, 0, 1), lambda w: w.transpose(2, 3, 1, 0)),  # HWIO, OIHW
}

LABELS = "class_embedding.weight"
_BLOCK = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OUTSIDE = {
    ("temb", "dense0"): "time_embedding.linear_1",
    ("temb", "dense1"): "time_embedding.linear_2",
    ("temb", "label"): LABELS.removesuffix(".weight"),
    ("conv_in",): "conv_in",
    ("norm_out",): "conv_norm_out",
    ("conv_out",): "conv_out",
}
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def name_map(unet: UNet, shape: tuple[int, ...]) -> dict[str, tuple[Path, str]]:
    """Return {tensor name of diffusers: (parameter path, name of its layout)} for data of `shape` (H,W,C)."""
    levels = len(unet.multipliers)
    return {_name(path, levels): (path, _layout(path, len(s))) for path, s in fit.shapes(unet, shape).items()}


def to_flax(tensors: Mapping[str, np.ndarray], unet: UNet, shape: tuple[int, ...]) -> dict[str, Any]:
    """Convert tensors by diffusers' names, old or new, to the parameters of `unet`.

    shape: (H,W,C) of the data. Values and dtypes are unchanged; a label embedding of `num_classes` rows gets one more,
    of zeros. Raises ValueError if tensors are missing, unknown or of another shape.
    """
    new_names = {name: ".".join(_OLD_NAMES.get(part, part) for part in name.split(".")) for name in tensors}
    tensors = {name if new_names[name] in tensors else new_names[name]: tensor for name, tensor in tensors.items()}
    names, shapes = name_map(unet, shape), fit.shapes(unet, shape)
    rows = tensors.get(LABELS)
    if unet.num_classes and rows is not None and len(rows) == unet.num_classes:
        tensors[LABELS] = np.concatenate([rows, np.zeros_like(rows[:1])])
    expected = {
        name: LAYOUTS[layout].to_torch(np.broadcast_to(np.float32(0), shapes[path])).shape
        for name, (path, layout) in names.items()
    }
    check_shapes("diffusers: the tensors", tensors, expected)
    return traverse_util.unflatten_dict(
        {path: np.ascontiguousarray(LAYOUTS[layout].to_flax(tensors[name])) for name, (path, layout) in names.items()}
    )


def from_flax(params: Mapping[str, Any], unet: UNet, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Convert the parameters of `unet` to tensors by diffusers' names; the inverse of `to_flax`.

    Raises ValueError if parameters are missing, unknown or of another shape.
    """
    flat = {"/".join(path): np.asarray(value) for path, value in traverse_util.flatten_dict(params).items()}
    check_shapes("diffusers: params", flat, {"/".join(path): s for path, s in fit.shapes(unet, shape).items()})
    return {
        name: np.ascontiguousarray(LAYOUTS[layout].to_torch(flat["/".join(path)]))
        for name, (path, layout) in name_map(unet, shape).items()
    }


def _name(path: Path, levels: int) -> str:
    """Return diffusers' name of a parameter. diffusers counts the up blocks from the lowest resolution."""
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


def _layout(path: Path, axes: int) -> str:
    if path[-1] != "kernel":
        return "copy"
    if axes == 4:
        return "conv"
    return "pointwise" if path[-2] == "nin_shortcut" else "linear"
