"""Common parts of commands: flags of configs and runs, checks of outputs."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusion_jax import files
from diffusion_jax.cli.parser import Flags, Parser, Path

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from diffusion_jax.runs.trained import Run

FIXED = ("data.class_names", "data.heldout_fingerprint")
"""Keys of the data that a resumed training may change, and no flag."""
Results = dict[str, Any]
"""Results of a command, printed as JSON. "exit_code" is taken out and is the exit code of the program."""

SECTIONS = {
    "sampler": "Any key of the sampler (default: that of the run).",
    "guidance": "Any key of the guidance (default: that of the run).",
    "bound": "Any key of the bound (default: that of the run).",
    "ode": "Any key of the probability-flow ODE (default: that of the run).",
    "data": "Location of the data, where it has moved: folder.path, folder.heldout, arrays.path, tfds.data_dir, … .",
}


# A config.


def add_config_flags(parser: Parser, needed: bool = True, default: str = "") -> None:
    """Declare --config and --config.KEY."""
    help = "Recipe: NAME or FILE, with :VARIANT if it has variants; for example --config=digits"
    parser.flag("config", Path, default, help, needed=needed)
    parser.group("config", "Any key of the config (default: that of the recipe); `main describe --keys` lists all.")


def config_of(args: Flags) -> "ConfigDict":
    """Return the config of --config with its overrides. Raises ValueError."""
    from diffusion_jax import config as configs

    return override(configs.load(args.config), args)


def override(config: "ConfigDict", args: Flags) -> "ConfigDict":
    """Apply --config.KEY=VALUE to a config, which is returned. Raises ValueError."""
    from diffusion_jax import config as configs

    configs.override_all(config, {key.removeprefix("config."): text for key, text in args.overrides.items()})
    return config


# A run.


def add_run_flags(parser: Parser, *sections: str) -> None:
    """Declare the flags that choose a run and its weights, and --SECTION.KEY."""
    add_workdir(parser)
    parser.flag("step", str, "newest", "Checkpoint: newest, best (by checkpoint.best) or a step.")
    parser.flag(
        "ema",
        str,
        "",
        "Weights: the decay of an average, posthoc:SIGMA_REL, or none for the raw weights (default: first average).",
    )
    add_verify(parser)
    for section in sections:
        parser.group(section, SECTIONS[section])


def add_workdir(parser: Parser, help: str = "Run directory of a training", needed: bool = True) -> None:
    """Declare --workdir."""
    parser.flag("workdir", Path, "", help, needed=needed)


def add_verify(parser: Parser) -> None:
    """Declare --verify."""
    parser.flag("verify", bool, True, "Compare checkpoints with their checksums before reading them.")


def load_run(args: Flags, idle: Sequence[str] = ()) -> "Run":
    """Load the run of --workdir, with its overrides. idle: see `config.override_all`. Raises ValueError or OSError."""
    from diffusion_jax.runs import trained

    return trained.load(args.workdir, args.step, args.ema, args.verify, **sections_of(args, idle))


def sections_of(args: Flags, idle: Sequence[str] = ()) -> dict[str, Any]:
    """Return the sections of a run's config that flags override, whole. Raises ValueError or OSError."""
    from diffusion_jax import config as configs
    from diffusion_jax.runs import trained

    movable = [key for key in configs.MAY_DIFFER if key.startswith("data.") and key not in FIXED]
    for key in args.overrides:
        if key.startswith("data.") and key not in movable:
            raise ValueError(f"--{key}: the data of a run are fixed, but for {', '.join(movable)}")
    if not args.overrides:
        return {}
    config = trained.read_config(args.workdir, args.step, args.verify)
    configs.override_all(config, args.overrides, start="--", idle=idle)
    return {section: config[section].to_dict() for section in sorted({key.partition(".")[0] for key in args.overrides})}


def add_format(parser: Parser) -> None:
    """Declare --format, which `main.run` applies."""
    parser.flag("format", str, "png", "Format of figures", ["png", "pdf", "svg"])


def add_seed(parser: Parser) -> None:
    """Declare --seed."""
    parser.flag("seed", int, 0, "Seed of the first sample; the next one has seed + 1.")


# Outputs.


def output(path: str, *suffixes: str, flag: str = "--out", picture: str = "") -> pathlib.Path:
    """Return the path of a file that a command will write.

    picture: the suffix of a picture or table that is written beside it, if any. Raises ValueError or PermissionError,
    before any work, for another suffix or a place that cannot be written to.
    """
    place = pathlib.Path(path)
    if suffixes and place.suffix not in suffixes:
        raise ValueError(f"{flag}={path}: must end in {' or '.join(suffixes)}")
    if not place.parent.is_dir():
        raise ValueError(f"{flag}={path}: no folder {place.parent}. Make it, or choose another place")
    if place.is_dir():
        raise ValueError(f"{flag}={path}: is a folder. Name a file in it")
    for file in (place, *([place.with_suffix(f".{picture}")] if picture else [])):
        files.check_file(file, f"{flag}={path}: ")
    return place


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
