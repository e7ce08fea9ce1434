"""The command line: python -m diffusion_jax.main COMMAND --flags.

    train     --config=FILE --workdir=DIR [--config.KEY=VALUE …]    train; the same command again resumes
    sample    --workdir=DIR --num_samples=N --seed=S --out=FILE.npz  draw samples, and a picture of them
    evaluate  --workdir=DIR [--likelihood=vlb|K]                     every figure that the config asks for
    show      --workdir=DIR                                          progressive pictures, interpolation
    describe  --config=FILE [--compile]                              size, FLOPs and memory, without training
    prepare   --config=FILE                                          make a TensorFlow Datasets set readable
    sweep     --sweep=FILE[:VARIANT] --workdir=DIR                   every cell of a grid; again: what is left of it
    compare   DIR                                                    the figures of a sweep as one table
    import    --from=diffusers|ddpm_tf1 --path=PATH --workdir=DIR    make a workdir of somebody else's weights
    export    --to=diffusers --workdir=DIR --path=DIR                write weights for somebody else

Logs and progress go to standard error. The last line on standard output is one JSON object with the results. What is
wrong with the input is one line on standard error, and the exit code is 2; --debug shows where it came from.
"""

import json
import logging
import math
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable
from typing import Any

from absl import flags

from diffusion_jax.arguments import one_line, parse, required

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

    from diffusion_jax import trained
    from diffusion_jax.training import pictures

    out = pathlib.Path(args.out)
    if out.suffix != ".npz":
        raise ValueError(f"--out={args.out} must end in .npz")
    check_writable(out)
    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler)
    seeds, samples = trained.draw(run, args.num_samples, args.seed)
    arrays = {"samples": samples, "seeds": seeds}
    if (labels := trained.labels(run, seeds)) is not None:
        arrays["labels"] = labels
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    picture = out.with_suffix(".png")
    pictures.save_png(picture, samples[: args.pictured], run.config.data.levels)
    return {"samples": str(out), "picture": str(picture), "num_samples": len(samples), "step": run.step}


def evaluate(args: flags.FlagValues) -> Results:
    """Every figure of a workdir that its config asks for, by name; kept in workdir/evaluation as well."""
    from diffusion_jax import trained

    if args.likelihood not in ("", "vlb", "K"):
        raise ValueError(f"--likelihood={args.likelihood!r} is not known; use vlb or K, or leave it out")
    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler, bound=args.bound)
    number = run.config.eval.num_samples if args.num_samples < 0 else args.num_samples
    trained.evaluation_directory(run)
    figures: Results = {"step": run.step, "ema": run.ema, **trained.heldout_loss(run)}
    if args.likelihood == "vlb":
        figures |= trained.report_bound(run)
    if args.likelihood == "K":
        figures |= trained.report_K(run)
    if run.config.eval.svm and number:
        figures |= trained.sample_quality(run, number, args.seed)
    if number:
        figures |= trained.judge(run, number, args.seed)
    trained.keep(run, figures)
    for name, value in figures.items():
        log.info("%-26s %s", name, f"{value:.5f}" if isinstance(value, float) else value)
    return figures


def show(args: flags.FlagValues) -> Results:
    """Pictures of what happens between noise and data, into workdir/evaluation."""
    from diffusion_jax import trained

    run = trained.load(args.workdir, args.step, args.ema, sampler=args.sampler)
    return {"step": run.step, "ema": run.ema, **trained.report_progressive(run, args.num_samples, args.seed)}


def sweep(args: flags.FlagValues) -> Results:
    """Run a grid of configs, or what is left of it."""
    from diffusion_jax import sweep

    return sweep.sweep(required(args, "sweep"), required(args, "workdir"))


def compare(args: flags.FlagValues) -> Results:
    """Print the figures of a sweep, and write them beside it."""
    from diffusion_jax import comparison

    text, figures = comparison.compare(required(args, "workdir"))
    print(text)
    return figures


def import_weights(args: flags.FlagValues) -> Results:
    """Make a workdir of weights from elsewhere."""
    from diffusion_jax.training import exchange

    read = {"diffusers": exchange.from_diffusers, "ddpm_tf1": exchange.from_ddpm_tf1}[required(args, "from")]
    return read(args.config, required(args, "path"), required(args, "workdir"))


def export_weights(args: flags.FlagValues) -> Results:
    """Write the weights of a workdir in the format of another project."""
    from diffusion_jax import trained
    from diffusion_jax.training import exchange

    write = {"diffusers": exchange.to_diffusers}[required(args, "to")]
    path = required(args, "path")
    run = trained.load(required(args, "workdir"), args.step, args.ema)
    return write(run.config, run.params, path) | {"step": run.step, "ema": run.ema}


COMMANDS: dict[str, Callable[[flags.FlagValues], Results]] = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "show": show,
    "describe": describe,
    "prepare": prepare,
    "sweep": sweep,
    "compare": compare,
    "import": import_weights,
    "export": export_weights,
}


def check_writable(out: pathlib.Path) -> None:
    """Raise ValueError or PermissionError, before any work is done, if `out` cannot be written."""
    if not out.parent.is_dir():
        raise ValueError(f"--out={out}: the folder {out.parent} does not exist; make it, or choose another")
    if out.is_dir():
        raise ValueError(f"--out={out} is a folder; name a file in it")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"--out={out}: {out.parent} cannot be written to; choose another folder")


def finite(value: Any) -> Any:
    """The same, with null for numbers that are not finite, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    except (ValueError, OSError, FloatingPointError, zipfile.BadZipFile) as error:
        if "--debug" in argv:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(json.dumps(finite(results), allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv))
