"""Conversion of options to and from diffusers: config.json and scheduler_config.json.

Options that cannot be represented are an error that names them all. A missing key has diffusers' default, with one
exception: a missing attention_head_dim means one head in some versions and 8 channels per head in others, with the same
shapes and other results, so it is an error.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion_jax.interop import fit
from diffusion_jax.networks.unet import UNet

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"

Fixed = dict[str, tuple[Any, tuple[Any, ...]]]
"""Key -> (diffusers' default, the supported values; the first one is written)."""
LEARNED = "learned_range"
"""The variance of a model with twice as many output channels."""

_MODEL: Fixed = {
    "act_fn": ("silu", ("silu", "swish")),
    "add_attention": (True, (True,)),
    "attn_norm_num_groups": (None, (None,)),
    "center_input_sample": (False, (False,)),
    "class_embed_type": (None, (None,)),
    "downsample_type": ("conv", ("conv",)),
    "mid_block_scale_factor": (1, (1,)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
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
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
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
_VARIANCES[LEARNED] = LEARNED


# Reading.


class _File:
    """JSON file with known keys and supported values, and a list of its faults."""

    def __init__(self, path: pathlib.Path, fixed: Fixed, options: Mapping[str, Any], ignored: tuple[str, ...]) -> None:
        """Read the file. Raises ValueError if it holds no JSON object."""
        self.path = path
        try:
            self.given = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: is not JSON: {error}") from error
        if not isinstance(self.given, dict):
            raise ValueError(f"{path}: must hold one JSON object")
        self.values = {key: default for key, (default, _) in fixed.items()} | dict(options) | self.given
        self.faults: list[str] = []
        for key in self.given:
            if not (key in fixed or key in options or key in ignored or key.startswith("_")):
                self.refuse(key, "The key is unknown; remove it if the model does not depend on it")
        for key, (_, values) in fixed.items():
            if self.values[key] not in values:
                self.refuse(key, f"Use {' or '.join(json.dumps(value) for value in values)}")

    def refuse(self, key: str, allowed: str) -> None:
        """Add a fault."""
        note = "" if key in self.given else " (diffusers' default, the key is missing)"
        self.faults.append(f"{key}={json.dumps(self.values.get(key))}{note} is not supported. {allowed}")

    def check(self, key: str, sound: bool, allowed: str) -> bool:
        """Add a fault unless `sound`, and return `sound`."""
        if not sound:
            self.refuse(key, allowed)
        return sound

    def close(self) -> None:
        """Raise ValueError if there are faults."""
        if self.faults:
            raise ValueError(f"{self.path}: {'; '.join(self.faults)}")

    def whole(self, key: str, least: int = 1) -> int:
        """Return the value of a key. Unless it is a whole number, add a fault and return 1."""
        sound = self.check(key, _is_whole(self.values[key], least), f"Use a whole number of at least {least}")
        return self.values[key] if sound else 1

    def wholes(self, key: str, length: int = 0) -> list[int]:
        """Return a list of whole numbers; otherwise add a fault and return [].

        `length`: how many numbers; 0: one or more.
        """
        values = self.values[key]
        listed = isinstance(values, list | tuple) and len(values) > 0 and len(values) == (length or len(values))
        sound = listed and all(_is_whole(value) for value in values)
        return list(values) if self.check(key, sound, f"Use {length or 'some'} whole numbers of at least 1") else []

    def number(self, key: str, least: float = 0.0) -> float:
        """Return a number in [least, 1), or 0 and add a fault."""
        value = self.values[key]
        sound = not isinstance(value, bool) and isinstance(value, int | float) and least <= value < 1
        return float(value) if self.check(key, sound, f"Use a number in [{least:g}, 1)") else 0.0

    def one_of(self, key: str, values: list[Any]) -> Any:
        """Return a value among `values`, or the first of them and add a fault."""
        sound = self.check(key, self.values[key] in values, f"Use {' or '.join(json.dumps(v) for v in values)}")
        return self.values[key] if sound else values[0]


def read_unet(folder: pathlib.Path) -> tuple[UNet, tuple[int, int, int]]:
    """Read config.json as a network and the shape (H,W,C) of its data. Raises ValueError that names every obstacle."""
    file = _File(folder / CONFIG, _MODEL, _MODEL_OPTIONS, _MODEL_IGNORED)
    file.values.setdefault("_class_name", "UNet2DModel")
    file.one_of("_class_name", ["UNet2DModel"])
    channels, attention = file.wholes("block_out_channels"), _attention(file)
    in_channels, out_channels, blocks, groups = map(
        file.whole, ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
    )
    size = file.values["sample_size"]
    height, width = [size] * 2 if _is_whole(size) else file.wholes("sample_size", 2) or [0, 0]
    file.check(
        "out_channels",
        out_channels in (in_channels, 2 * in_channels),
        f"Use in_channels={in_channels}, or twice as many for a learned variance",
    )
    heads, head_channels = 1, 0
    if channels:
        levels, lowest = len(channels), 2 ** (len(channels) - 1)
        file.check(
            "block_out_channels", not any(c % channels[0] for c in channels), "All must be multiples of the first"
        )
        file.check("norm_num_groups", not channels[0] % groups, f"It must divide {channels[0]} channels")
        file.check("sample_size", not (height % lowest or width % lowest), f"Both must be divisible by {lowest}")
        if attention and file.check(
            "down_block_types", len(attention) == levels, f"There must be {levels}, as many as block_out_channels"
        ):
            heads, head_channels = _heads(file, [c for i, c in enumerate(channels) if attention[i] or i == levels - 1])
    embeds = file.values["num_class_embeds"]
    options = {
        "dropout": file.number("dropout"),
        "norm_eps": file.number("norm_eps", 1e-12),
        "downsample_padding": file.one_of("downsample_padding", [0, 1]),
        "freq_shift": file.one_of("freq_shift", [0, 1]),
        "cos_first": file.one_of("flip_sin_to_cos", [False, True]),
        "num_classes": 0 if embeds is None else file.whole("num_class_embeds"),
    }
    file.close()
    unet = UNet(
        out_channels=out_channels,
        channels=channels[0],
        multipliers=tuple(c // channels[0] for c in channels),
        blocks=blocks,
        attention=tuple(height >> i for i, has in enumerate(attention) if has),
        heads=heads,
        head_channels=head_channels,
        **options,
    )
    shape = (height, width, in_channels)
    return fit.with_groups(unet, shape, groups), shape


def read_scheduler(folder: pathlib.Path) -> tuple[pathlib.Path | None, dict[str, Any]]:
    """Read scheduler_config.json as keys and values of a config.

    It stands beside config.json or in ../scheduler. Returns (file, values), or (None, {}) without a file. Raises
    ValueError that names every unsupported value.
    """
    places = (folder / SCHEDULER, folder.resolve().parent / "scheduler" / SCHEDULER)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None, {}
    file = _File(path, _CHAIN, _CHAIN_OPTIONS, _CHAIN_IGNORED)
    schedule = _SCHEDULES[file.one_of("beta_schedule", [*_SCHEDULES])]
    target = _TARGETS[file.one_of("prediction_type", [*_TARGETS])]
    variance = _VARIANCES[file.one_of("variance_type", [*_VARIANCES])]
    clips = bool(file.values["clip_sample"])
    file.check("clip_sample_range", not clips or file.values["clip_sample_range"] == 1, "x0 is clipped to [-1, 1] only")
    options = _ONLY["cosine"] if schedule == "cosine" else {key: file.number(key) for key in ("beta_start", "beta_end")}
    steps = file.whole("num_train_timesteps")
    file.close()
    return path, {
        "process.num_steps": steps,
        "schedule.name": schedule,
        **{f"schedule.{schedule}.{key}": value for key, value in options.items()},
        "prediction.target": target,
        "prediction.variance": variance,
        "sampler.clip_x0": clips,
    }


def _is_whole(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _attention(file: _File) -> list[bool]:
    """Return, per level, if it has attention; down and up blocks must agree. [] where there are faults."""
    found = []
    for way, key in (("Down", "down_block_types"), ("Up", "up_block_types")):
        kinds = {f"{way}Block2D": False, f"Attn{way}Block2D": True}
        types = file.values[key]
        sound = isinstance(types, list | tuple) and all(kind in [*kinds] for kind in types)
        if file.check(key, sound, f"Use {' and '.join(kinds)}"):
            found.append([kinds[kind] for kind in types])
    if len(found) < 2 or not file.check(
        "up_block_types", found[0] == found[1][::-1], "Attention must be at the levels of down_block_types"
    ):
        return []
    return found[0]


def _heads(file: _File, channels: list[int]) -> tuple[int, int]:
    """Return (heads, head_channels) for levels with attention, which have these `channels`."""
    if "attention_head_dim" not in file.given:
        file.faults.append(
            "attention_head_dim is missing, and versions of diffusers disagree on its meaning. Add it: null is one "
            "head, as in the models of Ho et al.; a number is the channels of a head"
        )
        return 1, 0
    width = file.values["attention_head_dim"]
    if width is None:
        return 1, 0
    sound = _is_whole(width) and not any(c % width for c in channels)
    there = ", ".join(map(str, sorted(set(channels))))
    if not file.check("attention_head_dim", sound, f"It must divide the channels with attention, {there}"):
        return 1, 0
    return (channels[0] // width, 0) if len(set(channels)) == 1 else (1, width)


# Writing.


def describe_unet(unet: UNet, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the contents of config.json for `unet` and data of `shape` (H,W,C).

    Raises ValueError that names every obstacle.
    """
    height, width, channels = shape
    groups = fit.norm_groups(unet, shape)
    levels = range(len(unet.multipliers))
    attention = [height >> i in unet.attention for i in levels]
    attending = {unet.channels * unet.multipliers[i] for i in levels if attention[i] or i == levels[-1]}
    faults = []
    if unet.multipliers[0] != 1:
        faults.append(f"network.unet.multipliers={unet.multipliers}: diffusers needs 1 as the first. Train with that")
    if len(groups) > 1:
        faults.append(
            f"network.unet.groups=0: gives {', '.join(map(str, sorted(groups)))} groups to norms of several widths, "
            "where diffusers has one. Train with a number"
        )
    if unet.heads > 1 and not unet.head_channels and len(attending) > 1:
        faults.append(
            f"network.unet.heads={unet.heads}: diffusers has heads of one width, not equally many at levels "
            f"of {', '.join(map(str, sorted(attending)))} channels. Train with head_channels"
        )
    if unet.fourier:
        faults.append(f"network.unet.fourier={unet.fourier}: diffusers has no such features. Train with ()")
    if faults:
        raise ValueError("; ".join(faults))
    return {
        "_class_name": "UNet2DModel",
        **{key: values[0] for key, (_, values) in _MODEL.items()},
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": unet.out_channels,
        "block_out_channels": [unet.channels * m for m in unet.multipliers],
        "layers_per_block": unet.blocks,
        "down_block_types": ["AttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "up_block_types": ["AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)],
        "attention_head_dim": unet.head_channels or (attending.pop() // unet.heads if unet.heads > 1 else None),
        "norm_num_groups": groups.pop(),
        "dropout": unet.dropout,
        "downsample_padding": unet.downsample_padding,
        "flip_sin_to_cos": unet.cos_first,
        "freq_shift": unet.freq_shift,
        "norm_eps": unet.norm_eps,
        "num_class_embeds": unet.num_classes or None,
    }


_ONLY_HERE = {
    "prediction.input_scaling": "none",
    "data.mean": 0.0,
    "data.std": 1.0,
    "sampler.dynamic_threshold": 0.0,
    "sampler.keep_eps": False,
}
"""Keys that change samples and are not exported, at the values with which diffusers draws the same."""


def describe_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of scheduler_config.json for a nested config.

    Raises ValueError that names every obstacle.
    """
    schedule, prediction = config["schedule"], config["prediction"]
    name = schedule["name"]
    faults = []
    for key, value, values in (
        ("network.conditioning", config["network"]["conditioning"], ["step"]),
        ("schedule.name", name, [*_SCHEDULES.values()]),
        ("prediction.target", prediction["target"], [*_TARGETS.values()]),
        ("prediction.variance", prediction["variance"], [*dict.fromkeys(_VARIANCES.values())]),
    ):
        if value not in values:
            faults.append(f"{key}={value!r}: diffusers' DDPMScheduler does not have it. Use {' or '.join(values)}")
    for key, only in _ONLY_HERE.items():
        section, option = key.split(".")
        value = config.get(section, {}).get(option, only)
        if value != only:
            faults.append(f"{key}={value!r}: is not exported, so that diffusers would draw other samples. Use {only!r}")
    options = schedule.get(name, {})
    for key, constant in _ONLY.get(name, {}).items():
        if options.get(key, constant) != constant:
            faults.append(f"schedule.{name}.{key}={options[key]}: in diffusers it is {constant}. Use that")
    if faults:
        raise ValueError("; ".join(faults))

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
