"""The flags of each command, and how they are read: whatever is wrong with them is one ValueError."""

import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

READ_A_RUN = ("sample", "restore", "evaluate", "frontier", "encode", "show", "export")
TAKE_A_CONFIG = ("train", "describe", "benchmark", "prepare", "import", "stats")


def parse(argv: list[str], stored: Mapping[str, Any] | None = None) -> flags.FlagValues:
    """The flags of a command line, [program, command, flags…]. Raises ValueError for whatever is wrong with them.

    stored: the config of a workdir that is still to come, for the commands that read one.
    """
    args = flags.FlagValues()
    try:
        argv = with_recipe(argv) if argv[1] == "import" else argv
        define(argv[1], args, argv, stored)
        rest = args(argv)[2:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(plainly(error, argv)) from error
    except Exception as error:  # whatever Python the config file holds
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        what = f"--config cannot be read: {kind}{one_line(error)}" if "config" in args else one_line(error)
        raise ValueError(what) from error
    if argv[1] == "compare" and args.workdir is None and rest:
        args["runs"].value, rest = rest, []
    if rest:
        raise ValueError(f"{rest[0]!r} is not a flag; flags are written --name=value")
    if "config" in args and not early_flags(argv, "config").config:
        raise ValueError("--config is missing; for example --config=configs/digits.py")
    return args


def with_recipe(argv: list[str]) -> list[str]:
    """The arguments of import, with a recipe where none is named: for diffusers it only fills in what a model lacks."""
    early = early_flags(argv, "from", "config")
    needs_one = getattr(early, "from") == "diffusers" and not early.config
    return [*argv[:2], "--config=configs/cifar10_ddpm.py", *argv[2:]] if needs_one else argv


def define(command: str, args: flags.FlagValues, argv: list[str], stored: Mapping[str, Any] | None) -> None:
    """The flags of a command."""
    flags.DEFINE_bool("debug", False, "show where an error came from", flag_values=args)
    define_processes(args)
    if command in TAKE_A_CONFIG:
        named = early_flags(argv, "config").config
        if named and not pathlib.Path(named.partition(":")[0]).is_file():
            raise ValueError(f"--config={named}: there is no file {named.partition(':')[0]}")
        make_importable(named)
        config_flags.DEFINE_config_file("config", None, "the recipe", flag_values=args, sys_argv=argv)
    if command in ("train", "import"):
        flags.DEFINE_string("workdir", None, "where checkpoints, metrics and pictures go", flag_values=args)
    if command == "describe":
        flags.DEFINE_bool("compile", False, "also ask the compiler how much memory it needs", flag_values=args)
    if command == "benchmark":
        flags.DEFINE_integer("batch_size", 0, "of the global batch; 0: as in the config", flag_values=args)
        flags.DEFINE_integer("repeats", 10, "timings behind each median", flag_values=args)
    if command == "sweep":
        flags.DEFINE_string("sweep", None, "the file that lists the grid, and :VARIANT of it", flag_values=args)
    if command in ("sweep", "compare"):
        flags.DEFINE_string("workdir", None, "where the sweep goes, a folder for each cell", flag_values=args)
    if command == "compare":
        flags.DEFINE_list("runs", [], "a sweep, or runs to compare with one another", flag_values=args)
        flags.DEFINE_string("out", "", "of runs: a .md or .csv file to write as well", flag_values=args)
    if command == "report":
        flags.DEFINE_string("workdir", None, "the workdir of a training run", flag_values=args)
    if command == "import":
        flags.DEFINE_enum("from", None, ["diffusers", "ddpm_tf1"], "whose weights", flag_values=args)
        flags.DEFINE_string("path", None, "diffusers: a folder; ddpm_tf1: the prefix of a checkpoint", flag_values=args)
    if command == "export":
        flags.DEFINE_enum("to", None, ["diffusers"], "for whom", flag_values=args)
        flags.DEFINE_string("path", None, "the folder to make", flag_values=args)
    if command == "stats":
        flags.DEFINE_enum("split", "train", ["train", "heldout"], "which examples", flag_values=args)
        flags.DEFINE_string("out", "stats.npz", "where the statistics go", flag_values=args)
        flags.DEFINE_integer("keep", 10_000, "examples whose features are kept as well", flag_values=args)
    if command in ("stats", "evaluate", "benchmark"):
        unless_named = "" if command == "benchmark" else "inception"
        flags.DEFINE_string(
            "features", unless_named, "inception, digits, pixels, or module:function of yours", flag_values=args
        )
        flags.DEFINE_string("inception", "", "weights made by import-inception, elsewhere", flag_values=args)
    if command == "import-inception":
        flags.DEFINE_string("path", None, "the public weights: .safetensors, or the .pb of 2015", flag_values=args)
        flags.DEFINE_string("out", "", "where they go (default: ~/.cache/diffusion_jax)", flag_values=args)
    if command in (*READ_A_RUN, "train"):
        flags.DEFINE_bool("verify", True, "compare what is read with its checksums first", flag_values=args)
    if command in READ_A_RUN:
        flags.DEFINE_string("workdir", None, "the workdir of a training run", flag_values=args)
        flags.DEFINE_string("step", "newest", "newest, best (lowest held-out loss) or a number", flag_values=args)
        flags.DEFINE_string("ema", "", "decay of the average to use, or none (default: the first)", flag_values=args)
    if command in ("sample", "restore", "evaluate", "frontier", "encode", "show"):
        define_sampling(command, args, argv, stored)


def define_processes(args: flags.FlagValues) -> None:
    """The flags by which the processes of a run find each other, where neither SLURM nor a TPU tells them."""
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0", flag_values=args)
    flags.DEFINE_integer("num_processes", None, "how many processes there are", flag_values=args)
    flags.DEFINE_integer("process_id", None, "which of them this is", flag_values=args)
    flags.DEFINE_integer("local_devices", 0, "how many devices each must see; 0 asks nothing", flag_values=args)


def processes(argv: list[str]) -> dict[str, Any]:
    """The values of those flags, read before all others: the processes must meet before JAX does anything."""
    args = flags.FlagValues()
    define_processes(args)
    try:
        args(argv, known_only=True)
    except flags.Error as error:
        raise ValueError(one_line(error)) from error
    names = ("coordinator_address", "num_processes", "process_id", "local_devices")
    return {name: args[name].value for name in names}


def unverified(argv: list[str]) -> bool:
    """Whether --verify=false is among the flags, which concerns the reading of others."""
    return "--noverify" in argv or early_flags(argv, "verify").verify.lower() in ("false", "f", "0", "no", "n")


def define_sampling(command: str, args: flags.FlagValues, argv: list[str], stored: Mapping[str, Any] | None) -> None:
    """The flags of what samples from a run; --sampler.KEY and the like default to what the run's config says."""
    from diffusion_jax.runs import trained

    flags.DEFINE_integer("seed", 0, "seed of the first sample; the next has seed + 1", flag_values=args)
    if command == "evaluate":
        flags.DEFINE_integer(
            "num_samples",
            -1,
            "samples to judge, 0 none; -1: eval.num_samples, or for --metrics as many as the reference has",
            flag_values=args,
        )
        flags.DEFINE_string("scales", "", "judge samples at these guidance scales, such as 0,1,2,4", flag_values=args)
        flags.DEFINE_string("likelihood", "", "vlb, multi, ode, K, or several of them: vlb,multi", flag_values=args)
        flags.DEFINE_list("metrics", [], "of the samples: fid, kid, is, pr (precision, recall), nn", flag_values=args)
        flags.DEFINE_string("stats", "", "the reference, of main stats (default: the training data)", flag_values=args)
        flags.DEFINE_list("allow", [], "few: than features; sizes: that differ; both are marked", flag_values=args)
        flags.DEFINE_integer("bootstrap", 100, "replicates behind each interval; 0 for none", flag_values=args)
        flags.DEFINE_bool("heldout", False, "beside them, the metrics of held-out data", flag_values=args)
    elif command == "frontier":
        flags.DEFINE_integer("num_samples", -1, "samples of each cell; -1 is eval.num_samples", flag_values=args)
        flags.DEFINE_list("samplers", "ancestral,ddim,dpmpp_2m", "NAME or NAME:GRID, …", flag_values=args)
        flags.DEFINE_list("steps", "5,10,15,25,50", "numbers of steps; 0: those of the chain", flag_values=args)
    else:
        number = {"show": 8, "restore": 16}.get(command, 64)
        flags.DEFINE_integer("num_samples", number, "how many samples", flag_values=args)
    if command == "restore":
        define_restoring(args)
    if command == "sample":
        flags.DEFINE_string("out", "samples.npz", "where the samples go", flag_values=args)
        flags.DEFINE_enum("layout", "plain", ["plain", "openai"], "openai: arr_0, for its evaluator", flag_values=args)
        flags.DEFINE_integer("label", None, "the class of all samples (default: one drawn for each)", flag_values=args)
        flags.DEFINE_integer("pictured", 64, "how many of them are in the picture", flag_values=args)
    if command == "encode":
        flags.DEFINE_string("out", "latents.npz", "where the noise goes", flag_values=args)
        flags.DEFINE_string("by", "ode", "ode, or ddim: its inversion, in the sampler's steps", flag_values=args)
    if stored is None:
        early = early_flags(argv, "workdir", "step")
        stored = trained.read_config(required(early, "workdir"), early.step or "newest")
    for section in sections(command):
        if section not in stored:
            raise ValueError(f"the config of this workdir, from an earlier version, has no {section!r}; train it again")
        config_flags.DEFINE_config_dict(section, ConfigDict(stored[section]), flag_values=args, sys_argv=argv)


def sections(command: str) -> tuple[str, ...]:
    """The parts of a run's config that a command may change."""
    if command not in READ_A_RUN or command == "export":
        return ()
    others = {
        "evaluate": ("sampler", "guidance", "bound", "ode"),
        "frontier": ("sampler",),
        "encode": ("sampler", "ode"),
    }
    return others.get(command, ("sampler", "guidance"))


def usage(command: str) -> str:
    """The flags of a command, each with what it is and its default."""
    args = flags.FlagValues()
    define(command, args, ["main", command], {part: {} for part in sections(command)})
    general = flags.FlagValues()
    define_processes(general)
    lines = []
    for name in sorted(args, key=lambda name: name in general or name == "debug"):
        if name not in sections(command):
            default = args[name].default
            shown = f" (default: {','.join(default) if isinstance(default, list) else default})"
            lines.append(f"    --{name:22s}{args[name].help}{shown if default not in (None, '', []) else ''}")
    groups = {part: f"any key of {part} in configs/defaults.py (default: the run's)" for part in sections(command)}
    if command in TAKE_A_CONFIG:
        groups = {"config": "any key of configs/defaults.py (default: the recipe's)"}
    lines += [f"    --{f'{group}.KEY':22s}{what}" for group, what in groups.items()]
    return "\n".join(lines)


def define_restoring(args: flags.FlagValues) -> None:
    """The flags of restore beside those of sampling."""
    flags.DEFINE_string("out", "restored.npz", "where the examples go", flag_values=args)
    flags.DEFINE_string("task", "inpaint", "denoise, inpaint, colourise or superres", flag_values=args)
    flags.DEFINE_string("rule", "noise_aware", "constant, power, noise_aware or renoise", flag_values=args)
    flags.DEFINE_string("mask", "right", "inpaint: right, left, random, box, or a .npy file", flag_values=args)
    flags.DEFINE_float("share", 0.5, "inpaint: of the pixels that are missing (random, box)", flag_values=args)
    flags.DEFINE_integer("factor", 2, "superres: of height and width", flag_values=args)
    flags.DEFINE_float("noise", None, "standard deviation, in the range -1 to 1 (denoise: 0.5)", flag_values=args)
    flags.DEFINE_integer("repeats", 1, "times each stretch of steps is walked (RePaint: 10)", flag_values=args)
    flags.DEFINE_integer("length", 10, "steps of such a stretch", flag_values=args)


def early_flags(argv: list[str], *names: str) -> flags.FlagValues:
    """Some flags by themselves, "" where not given: those on which the definition of the others depends."""
    early = flags.FlagValues()
    for name in names:
        flags.DEFINE_string(name, "", "", flag_values=early)
    early(argv, known_only=True)
    return early


def make_importable(config: str) -> None:
    """Let a file anywhere in a folder configs/ import its neighbours from wherever the command is given."""
    for folder in pathlib.Path(config.partition(":")[0]).resolve().parents:
        if config and folder.name == "configs" and str(folder.parent) not in sys.path:
            sys.path.append(str(folder.parent))


def required(args: flags.FlagValues, name: str) -> str:
    """The value of a flag that must be given."""
    value = getattr(args, name)
    if not value:
        raise ValueError(f"--{name} is missing")
    return value


def plainly(error: Exception, argv: list[str]) -> str:
    """What the flag libraries say, on one line and with the flag as it is typed."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    text = str(cause.args[0]) if isinstance(cause, KeyError) and cause.args else str(cause)
    if "Traceback (most recent call last)" in text:  # of a config's get_config
        return f"--config cannot be read: {text.strip().splitlines()[-1].removeprefix('ValueError: ')}"
    text = " ".join(text.split())
    if isinstance(error, flags.UnrecognizedFlagError):
        group, _, rest = error.flagname.partition(".")
        if group == "config" and argv[1] in READ_A_RUN:
            text += f"; the config of a run stands, but for --sampler.KEY and the like: try --{rest}"
        elif rest and argv[1] in TAKE_A_CONFIG:
            text += f"; try --config.{error.flagname}"
    if key := re.match(r"'(\w+)' (Did you mean .*)", text):
        typed = next((word.partition("=")[0] for word in argv if f".{key[1]}" in word), "a flag")
        text = f"{typed}: there is no key {key[1]!r}. {key[2]}"
    return re.sub(r"Overriding (\w+) is not allowed\.", r"it is a group; write --\1.KEY=VALUE", text)


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
