"""Write an HTML page of a run and its evaluations."""

from diffusion_jax.cli.common import Results, add_format, add_workdir
from diffusion_jax.cli.parser import Flags, Parser

DEVICES = False


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_workdir(parser)
    add_format(parser)


def run(args: Flags) -> Results:
    """Write WORKDIR/report.html, and its figures beside it."""
    from diffusion_jax.analysis import html_report

    return html_report.write_report(args.workdir, args.format)
