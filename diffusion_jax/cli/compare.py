"""Tabulate the figures of a sweep, `compare DIR`, or of several runs, `compare RUN RUN …`."""

import pathlib

from diffusion_jax.cli.common import Results, add_workdir, output
from diffusion_jax.cli.parser import Flags, Parser, Path
from diffusion_jax.files import expand

DEVICES = False


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    parser.add_argument("runs", nargs="*", type=expand, help="Directory of a sweep, or run directories to compare.")
    add_workdir(parser, "Directory of a sweep, in place of DIR.", needed=False)
    parser.flag("out", Path, "", "File of the table of several runs, .md or .csv.")


def run(args: Flags) -> Results:
    """Print the table; the table of a sweep is also written beside the sweep."""
    from diffusion_jax.analysis import comparison

    places = args.runs or [args.workdir]
    if args.out:
        output(args.out, ".md", ".csv")
    if not places[0]:
        raise ValueError("compare: no run named. Use compare DIR for a sweep, or compare RUN RUN … for runs")
    if args.runs and args.workdir:
        raise ValueError(f"--workdir={args.workdir}: names the sweep in place of {args.runs[0]}. Leave one of them out")
    if len(places) > 1 or pathlib.Path(places[0], "checkpoints").is_dir():
        text, figures = comparison.compare_runs(places, args.out)
    else:
        if args.out:
            raise ValueError(f"--out={args.out}: is for several runs. The table of a sweep is written beside it")
        text, figures = comparison.compare_sweep(places[0])
    print(text)
    return figures
