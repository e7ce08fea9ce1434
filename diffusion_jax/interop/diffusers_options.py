"""Conversion of options to and from diffusers: config.json and scheduler_config.json.

An option that cannot be represented is an error that names it. A missing key has diffusers' default, with one
exception: a missing attention_head_dim means one head in some versions and 8 channels per head in others, with the same
shapes and other results, so it is an error.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion_jax.interop import fit
from diffusion_jax.networks.layers import NORM_EPSILON
from diffusion_jax.networks.unet import UNet

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"

Fixed = dict[str, tuple[Any, tuple[Any, ...]]]
"""Key -> (diffusers' default, the supported values; the first one is written)."""

_MODEL: Fixed = {
    "act_fn": ("silu", ("silu", "swish")),
    "add_attention": (True, (True,)),
    "attn_norm_num_groups": (None, (None,)),
    "center_input_sample": (False, (False,)),
    "class_embed_type": (None, (None,)),
    "downsample_padding": (1, (0,)),
    "downsample_type": ("conv", ("conv",)),
    "flip_sin_to_cos": (True, (False,)),
    "freq_shift": (0, (1,)),
    "mid_block_scale_factor": (1, (1,)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "norm_eps": (1e-5, (NORM_EPSILON,)),
    "num_class_embeds": (None, (None,)),
    "resnet_time_scale_shift": ("default", ("default",)),
    "time_embedding_dim": (None, (None,)),
    "time_embedding_type": ("positional", ("positional",)),
    "upsample_type": ("conv", ("conv",)),
}
_MODEL_OPTIONS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "dropout": 0.0,
}
"""Keys with a counterpart in UNet, and diffusers' defaults."""
_MODEL_IGNORED = ("num_train_timesteps",)  # the size of learned time embeddings, which are not supported

_CHAIN: Fixed = {
    "_class_name": (None, ("DDPMScheduler",)),
    "trained_betas": (None, (None,)),
    "thresholding": (False, (False,)),
    "rescale_betas_zero_snr": (False, (False,)),
    "timestep_values": (None, (None,)),
    "predict_epsilon": (True, (True,)),
}
_CHAIN_OPTIONS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
}
_CHAIN_IGNORED = (  # for shortened chains, or for unsupported options
    "timestep_spacing", "steps_offset", "dynamic_thresholding_ratio", "sample_max_value", "tensor_format",
)  # fmt: skip
_SCHEDULES = {"linear": "linear", "scaled_linear": "quad", "sigmoid": "sigmoid", "squaredcos_cap_v2": "cosine"}
_ONLY = {"sigmoid": {"reach": 6.0}, "cosine": {"offset": 0.008, "max_beta": 0.999}}
"""Options that are constants in diffusers."""
_TARGETS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large"}


# Reading.


def read_unet(folder: pathlib.Path) -> tuple[UNet, tuple[int, int, int]]:
    """Read config.json as a network and the shape (H,W,C) of its data. Raises ValueError."""
    file = folder / CONFIG
    config = _read(file, _MODEL, _MODEL_OPTIONS, _MODEL_IGNORED)
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise _refusal(file, config, "_class_name", "use the folder of a UNet2DModel")
    if "attention_head_dim" not in config:
        raise ValueError(
            f"{file}: attention_head_dim is missing, and versions of diffusers disagree on what that means; write it "
            "in: null is one head, as the models of Ho et al. have it; a number is the channels of a head"
        )
    config = _MODEL_OPTIONS | config

    channels = _whole_numbers(file, config, "block_out_channels")
    levels = len(channels)
    if any(c % channels[0] for c in channels):
        raise _refusal(file, config, "block_out_channels", "all have to be multiples of the first")
    attention = _attention(file, config, levels)
    size = config["sample_size"]
    height, width = [size] * 2 if _is_whole(size) else _whole_numbers(file, config, "sample_size", 2)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise _refusal(file, config, "sample_size", f"both have to be divisible by {2 ** (levels - 1)}")
    keys = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
    in_channels, out_channels, blocks, groups = (_whole_number(file, config, key) for key in keys)
    if out_channels != in_channels:
        raise _refusal(file, config, "out_channels", f"it has to equal in_channels={in_channels}")
    if channels[0] % groups:
        raise _refusal(file, config, "norm_num_groups", f"it has to divide {channels[0]} channels")
    unet = UNet(
        out_channels=out_channels,
        channels=channels[0],
        multipliers=tuple(c // channels[0] for c in channels),
        blocks=blocks,
        attention=tuple(height >> i for i in range(levels) if attention[i]),
        heads=_heads(file, config, [c for i, c in enumerate(channels) if attention[i] or i == levels - 1]),
        dropout=_fraction(file, config, "dropout"),
    )
    shape = (height, width, in_channels)
    return fit.with_groups(unet, shape, groups), shape


def read_scheduler(folder: pathlib.Path) -> tuple[pathlib.Path | None, dict[str, Any]]:
    """Read scheduler_config.json as keys and values of a config.

    It stands beside config.json or in ../scheduler. Returns (file, values), or (None, {}) without a file. Raises
    ValueError for unsupported values.
    """
    places = (folder / SCHEDULER, folder.resolve().parent / "scheduler" / SCHEDULER)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None, {}
    config = _CHAIN_OPTIONS | _read(file, _CHAIN, _CHAIN_OPTIONS, _CHAIN_IGNORED)
    for key, table in (("beta_schedule", _SCHEDULES), ("prediction_type", _TARGETS), ("variance_type", _VARIANCES)):
        if config[key] not in [*table]:
            raise _refusal(file, config, key, f"use one of {', '.join(table)}")
    if config["clip_sample"] and config["clip_sample_range"] != 1:
        raise _refusal(file, config, "clip_sample_range", "x0 can only be clipped to [-1, 1]")
    schedule = _SCHEDULES[config["beta_schedule"]]
    options = (
        _ONLY["cosine"]
        if schedule == "cosine"
        else {key: _fraction(file, config, key) for key in ("beta_start", "beta_end")}
    )
    return file, {
        "process.num_steps": _whole_number(file, config, "num_train_timesteps"),
        "schedule.name": schedule,
        **{f"schedule.{schedule}.{key}": value for key, value in options.items()},
        "prediction.target": _TARGETS[config["prediction_type"]],
        "prediction.variance": _VARIANCES[config["variance_type"]],
        "sampler.clip_x0": bool(config["clip_sample"]),
    }


# Writing.


def describe_unet(unet: UNet, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the contents of config.json for `unet` and data of `shape` (H,W,C). Raises ValueError."""
    height, width, channels = shape
    if unet.num_classes:
        raise ValueError("network.conditional=True cannot be exported: diffusers has no row for an absent label")
    if unet.multipliers[0] != 1:
        raise ValueError(f"network.unet.multipliers={unet.multipliers} cannot be exported: the first has to be 1")
    groups = fit.norm_groups(unet, shape)
    if len(groups) > 1:
        raise ValueError(
            f"network.unet.groups=0 cannot be exported: here it means {', '.join(map(str, sorted(groups)))} groups in "
            "norms of different channels, where diffusers has one number; train with that number in the config"
        )
    levels = range(len(unet.multipliers))
    attention = [height >> i in unet.attention for i in levels]
    attending = {unet.channels * unet.multipliers[i] for i in levels if attention[i] or i == levels[-1]}
    if unet.heads > 1 and len(attending) > 1:
        raise ValueError(
            f"network.unet.heads={unet.heads} cannot be exported: diffusers has heads of one width, which at levels of "
            f"{', '.join(map(str, sorted(attending)))} channels are not equally many"
        )
    return {
        "_class_name": "UNet2DModel",
        **{key: values[0] for key, (_, values) in _MODEL.items()},
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [unet.channels * m for m in unet.multipliers],
        "layers_per_block": unet.blocks,
        "down_block_types": ["AttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "up_block_types": ["AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)],
        "attention_head_dim": attending.pop() // unet.heads if unet.heads > 1 else None,
        "norm_num_groups": groups.pop(),
        "dropout": unet.dropout,
    }


def describe_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of scheduler_config.json for a nested config. Raises ValueError."""
    schedule, prediction = config["schedule"], config["prediction"]
    name = schedule["name"]
    for key, value, values in (
        ("network.conditioning", config["network"]["conditioning"], ["step"]),
        ("schedule.name", name, [*_SCHEDULES.values()]),
        ("prediction.target", prediction["target"], [*_TARGETS.values()]),
        ("prediction.variance", prediction["variance"], [*dict.fromkeys(_VARIANCES.values())]),
    ):
        if value not in values:
            raise ValueError(
                f"{key}={value!r} cannot be exported: diffusers' DDPMScheduler has only {', '.join(values)}"
            )
    options = schedule.get(name, {})
    for key, constant in _ONLY.get(name, {}).items():
        if options.get(key, constant) != constant:
            raise ValueError(f"schedule.{name}.{key}={options[key]} cannot be exported: in diffusers it is {constant}")

    def named(table: Mapping[str, str], value: str) -> str:
        return next(theirs for theirs, ours in table.items() if ours == value)

    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": config["process"]["num_steps"],
        "beta_schedule": named(_SCHEDULES, name),
        "beta_start": options.get("beta_start", _CHAIN_OPTIONS["beta_start"]),
        "beta_end": options.get("beta_end", _CHAIN_OPTIONS["beta_end"]),
        "variance_type": named(_VARIANCES, prediction["variance"]),
        "clip_sample": config["sampler"]["clip_x0"],
        "prediction_type": named(_TARGETS, prediction["target"]),
    }


# Parts of the above.


def _read(file: pathlib.Path, fixed: Fixed, options: Mapping[str, Any], ignored: tuple[str, ...]) -> dict[str, Any]:
    """Read a JSON file with known keys and supported values. Raises ValueError."""
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} has to hold one JSON object")
    for key in config:
        if not (key in fixed or key in options or key in ignored or key.startswith("_")):
            raise _refusal(file, config, key, "the key is not known; remove it if the model does not depend on it")
    for key, (default, values) in fixed.items():
        if config.get(key, default) not in values:
            allowed = " or ".join(json.dumps(value) for value in values)
            raise _refusal(file, {key: default} | config, key, f"only {allowed} is", absent=key not in config)
    return config


def _refusal(file: pathlib.Path, config: Mapping[str, Any], key: str, allowed: str, absent: bool = False) -> ValueError:
    note = " (diffusers' default, as the file lacks it)" if absent else ""
    return ValueError(f"{file}: {key}={json.dumps(config[key])}{note} cannot be represented; {allowed}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _whole_number(file: pathlib.Path, config: Mapping[str, Any], key: str) -> int:
    """Return config[key] as an integer >= 1."""
    if not _is_whole(config[key]):
        raise _refusal(file, config, key, "use a whole number of at least 1")
    return config[key]


def _whole_numbers(file: pathlib.Path, config: Mapping[str, Any], key: str, length: int = 0) -> list[int]:
    """Return config[key] as a list of integers >= 1, `length` of them (0: one or more)."""
    values = config[key]
    listed = isinstance(values, list | tuple) and len(values) > 0 and len(values) == (length or len(values))
    if not listed or not all(_is_whole(value) for value in values):
        raise _refusal(file, config, key, f"use {length or 'some'} whole numbers of at least 1")
    return list(values)


def _fraction(file: pathlib.Path, config: Mapping[str, Any], key: str) -> float:
    """Return config[key] as a number in [0, 1)."""
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise _refusal(file, config, key, "use a number in [0, 1)")
    return float(value)


def _attention(file: pathlib.Path, config: Mapping[str, Any], levels: int) -> list[bool]:
    """Return, per level, if it has attention; down and up blocks must agree."""
    found = {}
    for way, key in (("Down", "down_block_types"), ("Up", "up_block_types")):
        kinds = {f"{way}Block2D": False, f"Attn{way}Block2D": True}
        types = config[key]
        if not isinstance(types, list | tuple) or any(kind not in [*kinds] for kind in types):
            raise _refusal(file, config, key, f"use {' and '.join(kinds)}")
        if len(types) != levels:
            raise _refusal(file, config, key, f"there have to be {levels}, as many as block_out_channels")
        found[way] = [kinds[kind] for kind in types]
    if found["Down"] != found["Up"][::-1]:
        raise _refusal(file, config, "up_block_types", "attention has to be at the levels of down_block_types")
    return found["Down"]


def _heads(file: pathlib.Path, config: Mapping[str, Any], channels: list[int]) -> int:
    """Return the number of heads, equal at all levels with attention, which have these `channels`."""
    width = config["attention_head_dim"]
    if width is None:
        return 1
    if not _is_whole(width) or len({c / width for c in channels}) > 1 or channels[0] % width:
        there = ", ".join(map(str, sorted(set(channels))))
        raise _refusal(
            file,
            config,
            "attention_head_dim",
            f"as many heads are needed at all levels with attention ({there} channels)",
        )
    return channels[0] // width
