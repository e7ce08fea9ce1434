"""The command line: python -m diffusion_jax.main COMMAND --flags.

    train     --config=FILE --workdir=DIR [--config.KEY=VALUE …]    train; the same command again resumes
    sample    --workdir=DIR --num_samples=N --seed=S --out=FILE.npz  draw samples, and a picture of them
    evaluate  --workdir=DIR                                          every figure that the config asks for
    describe  --config=FILE [--compile]                              size, FLOPs and memory, without training
    prepare   --config=FILE                                          make a TensorFlow Datasets set readable

Logs and progress go to standard error. The last line on standard output is one JSON object with the results. What is
wrong with the input is one line on standard error, and the exit code is 2; --debug shows where it came from.
"""

import json
import logging
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

log = logging.getLogger("diffusion_jax")
"""Modules of this project log below it; everything else stays quiet unless it warns."""

Results = dict[str, Any]


def train(args: flags.FlagValues) -> Results:
    """Train a config in a workdir."""
    from diffusion_jax.training import loop

    return loop.train(args.config, required(args, "workdir"))


def describe(args: flags.FlagValues) -> Results:
    """Print what a config amounts to."""
    from diffusion_jax.training.describe import describe

    text, figures = describe(args.config, args.compile)
    print(text)
    return figures


def prepare(args: flags.FlagValues) -> Results:
    """Download, build or convert the TFDS set of a config."""
    from diffusion_jax.data import tfds

    options = args.config.data.tfds
    return {"directory": tfds.prepare(options.dataset, options.data_dir)}


def sample(args: flags.FlagValues) -> Results:
    """Draw samples from a workdir into a .npz, with a picture beside it."""
    import numpy as np

    from diffusion_jax.training import reporting

    out = pathlib.Path(args.out)
    if out.suffix != ".npz":
        raise ValueError(f"--out={args.out} must end in .npz")
    check_writable(out)
    config = stored_config(args)
    seeds, samples = draw(config, args, args.num_samples)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, samples=samples, seeds=seeds)
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    picture = out.with_suffix(".png")
    reporting.save_png(picture, samples[: args.pictured], config.data.levels)
    return {"samples": str(out), "picture": str(picture), "num_samples": len(samples), "step": checkpoint_step(args)}


def evaluate(args: flags.FlagValues) -> Results:
    """Every figure of a workdir that its config asks for, by name."""
    import jax
    import numpy as np

    from diffusion_jax import build
    from diffusion_jax.training import loop, parallel

    config = stored_config(args)
    figures: Results = {"step": checkpoint_step(args), "ema": average(config, args)}
    heldout = build.source(config, "heldout")
    key = jax.random.split(jax.random.key(config.seed), 3)[2]
    params = parallel.replicated(weights(config, args))
    figures |= loop.heldout_loss(config, build.build(config), heldout, key)(params)
    if config.eval.svm:
        from diffusion_jax.evaluation.svm import svm_confidence

        real = build.source(config, "train")
        number = args.num_samples or config.eval.num_samples
        _, samples = draw(config, args, number)
        figures |= {"num_samples": number}
        train_set, heldout_set = (source.read(np.arange(source.size)) for source in (real, heldout))
        figures |= svm_confidence(train_set, heldout_set, samples)
    for name, value in figures.items():
        log.info("%-26s %s", name, f"{value:.5f}" if isinstance(value, float) else value)
    return figures


COMMANDS: dict[str, Callable[[flags.FlagValues], Results]] = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "describe": describe,
    "prepare": prepare,
}


# What sample and evaluate share.


def stored_config(args: flags.FlagValues) -> ConfigDict:
    """The config inside the checkpoint, with the --sampler keys of the command line."""
    from diffusion_jax.training import checkpoints

    config = ConfigDict(checkpoints.read_config(args.workdir, args.step))
    config.sampler.update(args.sampler)
    return config


def checkpoint_step(args: flags.FlagValues) -> int:
    """The step that --step means."""
    from diffusion_jax.training import checkpoints

    return checkpoints.find_step(args.workdir, args.step)


def average(config: ConfigDict, args: flags.FlagValues) -> str:
    """The weights that --ema means: a decay, or "none" for the parameters themselves."""
    return args.ema or str(next(iter(config.ema.decays), "none"))


def weights(config: ConfigDict, args: flags.FlagValues) -> Any:
    """The parameters to use."""
    from diffusion_jax.training import checkpoints

    name = average(config, args)
    return checkpoints.restore_weights(args.workdir, args.step, None if name == "none" else name)


def draw(config: ConfigDict, args: flags.FlagValues, number: int) -> tuple[Any, Any]:
    """`number` samples at seeds --seed, --seed + 1, …: (seeds int64 [N], samples in the levels of the data [N,*D])."""
    import numpy as np

    from diffusion_jax import build
    from diffusion_jax.data.scaling import from_model
    from diffusion_jax.training import parallel

    if number < 1:
        raise ValueError(f"--num_samples={number} must be at least 1")
    if not 0 <= args.seed <= 2**32 - number:
        raise ValueError(f"--seed={args.seed} must be at least 0, and seed + num_samples at most 2^32")
    experiment = build.build(config)
    params = parallel.replicated(weights(config, args))
    seeds = np.arange(args.seed, args.seed + number)
    x = parallel.in_tiles(
        parallel.spread(experiment.sample, whole=1), params, seeds.astype(np.uint32), config.sampler.tile
    )
    return seeds, np.asarray(from_model(x, config.data.levels))


def check_writable(out: pathlib.Path) -> None:
    """Raise ValueError or PermissionError, before any work is done, if `out` cannot be written."""
    if not out.parent.is_dir():
        raise ValueError(f"--out={out}: the folder {out.parent} does not exist; make it, or choose another")
    if out.is_dir():
        raise ValueError(f"--out={out} is a folder; name a file in it")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"--out={out}: {out.parent} cannot be written to; choose another folder")


# Flags.


def required(args: flags.FlagValues, name: str) -> str:
    """The value of a flag that must be given."""
    value = getattr(args, name)
    if not value:
        raise ValueError(f"--{name} is missing")
    return value


def parse(argv: list[str]) -> flags.FlagValues:
    """The flags of a command line, [program, command, flags…]. Raises ValueError for whatever is wrong with them."""
    command = argv[1]
    args = flags.FlagValues()
    flags.DEFINE_bool("debug", False, "show where an error came from", flag_values=args)
    if command in ("train", "describe", "prepare"):
        config_flags.DEFINE_config_file("config", None, "the recipe", flag_values=args, sys_argv=argv)
    if command == "train":
        flags.DEFINE_string("workdir", None, "where checkpoints, metrics and pictures go", flag_values=args)
    if command == "describe":
        flags.DEFINE_bool("compile", False, "also ask the compiler how much memory it needs", flag_values=args)
    try:
        if command in ("sample", "evaluate"):
            define_reading(command, args, argv)
        rest = args(argv)[2:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(one_line(error)) from error
    except (OSError, SyntaxError, ImportError) as error:
        what = f"--config cannot be read: {one_line(error)}" if "config" in args else one_line(error)
        raise ValueError(what) from error
    if rest:
        raise ValueError(f"{rest[0]!r} is not a flag; flags are written --name=value")
    if "config" in args and args.config is None:
        raise ValueError("--config is missing; for example --config=configs/digits.py")
    return args


def define_reading(command: str, args: flags.FlagValues, argv: list[str]) -> None:
    """The flags of sample and evaluate. The defaults of --sampler.KEY are those stored in the workdir's checkpoint."""
    from diffusion_jax.training import checkpoints

    flags.DEFINE_string("workdir", None, "the workdir of a training run", flag_values=args)
    flags.DEFINE_string("step", "newest", "newest, best (lowest held-out loss) or a number", flag_values=args)
    flags.DEFINE_string("ema", "", "decay of the average to use, or none (default: the first)", flag_values=args)
    flags.DEFINE_integer("seed", 0, "seed of the first sample; the next has seed + 1", flag_values=args)
    default = 64 if command == "sample" else 0
    flags.DEFINE_integer("num_samples", default, "how many samples (evaluate: 0 is eval.num_samples)", flag_values=args)
    if command == "sample":
        flags.DEFINE_string("out", "samples.npz", "where the samples go", flag_values=args)
        flags.DEFINE_integer("pictured", 64, "how many of them are in the picture", flag_values=args)
    early = flags.FlagValues()
    for name in ("workdir", "step"):
        flags.DEFINE_string(name, "newest" if name == "step" else "", "", flag_values=early)
    early(argv, known_only=True)
    stored = checkpoints.read_config(required(early, "workdir"), early.step)
    config_flags.DEFINE_config_dict("sampler", ConfigDict(stored["sampler"]), flag_values=args, sys_argv=argv)


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


# Entry.


def run(argv: list[str]) -> int:
    """Carry out [program, command, flags…]; returns the exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    if len(argv) < 2 or argv[1] in ("--help", "-h", "help"):
        print(__doc__)
        return 0 if len(argv) > 1 else 2
    if argv[1] not in COMMANDS:
        print(f"error: {argv[1]!r} is not a command; use one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        args = parse(argv)
        results = COMMANDS[argv[1]](args)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if "--debug" in argv:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv))
