"""Train and evaluate every cell of a grid. The same command runs what is missing."""

from diffusion_jax.cli import evaluate
from diffusion_jax.cli.common import Results, add_workdir
from diffusion_jax.cli.parser import Flags, Parser, Path

DEVICES = False


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    parser.flag(
        "sweep", Path, "", "Description of the grid: NAME or FILE, with :VARIANT if it has variants", needed=True
    )
    add_workdir(parser, "Directory of the sweep, with a run directory for each cell and seed")


def run(args: Flags) -> Results:
    """Run the cells one after another."""
    from diffusion_jax.analysis import sweeps

    return sweeps.run_sweep(args.sweep, args.workdir, evaluate.check_words)
