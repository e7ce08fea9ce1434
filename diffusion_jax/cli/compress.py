"""Compress examples without loss, by bits-back coding with a run."""

from diffusion_jax.cli.common import Results, add_run_flags, load_run, output
from diffusion_jax.cli.parser import Flags, Parser, Path

THREADS = 8
"""The outputs of a network depend on the number of threads in their last bits, so it is the same on every machine."""


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "bound", "data")
    parser.flag("split", str, "heldout", "Examples of the run's data", ["heldout", "train"])
    parser.flag("num_examples", int, 0, "Number of examples (0: all of the split)")
    parser.flag("num_steps", int, 0, "Steps of the chain (0: bound.num_steps)")
    parser.flag("out", Path, "compressed.djx", "Compressed file")


def run(args: Flags) -> Results:
    """Compress examples, and give the length of the code beside the variational bound."""
    from diffusion_jax.analysis import compression
    from diffusion_jax.analysis.heldout import first_examples
    from diffusion_jax.data.source import NoHeldout
    from diffusion_jax.experiment import sources

    out = output(args.out)
    for flag in ("num_examples", "num_steps"):
        if getattr(args, flag) < 0:
            raise ValueError(f"--{flag}={getattr(args, flag)}: must be at least 0")
    if args.num_steps:
        args.overrides["bound.num_steps"] = str(args.num_steps)
    loaded = load_run(args)
    try:
        source = sources.heldout(loaded.config) if args.split == "heldout" else sources.source(loaded.config, "train")
    except NoHeldout as error:
        raise ValueError(f"{error}, or use --split=train") from error
    return {
        "step": loaded.step,
        **compression.compress(loaded, first_examples(source, args.num_examples or source.size), out),
    }
