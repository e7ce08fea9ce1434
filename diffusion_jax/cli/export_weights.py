"""Write the weights of a run in the format of another project."""

from diffusion_jax.cli.common import Results, add_run_flags, load_run
from diffusion_jax.cli.parser import Flags, Parser, Path

NAME = "export"


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    parser.flag("to", str, "", "Project", ["diffusers"], needed=True)
    parser.flag("path", Path, "", "Folder to make", needed=True)
    add_run_flags(parser)


def run(args: Flags) -> Results:
    """Write a folder that the other project loads."""
    from diffusion_jax.interop import diffusers_folder, exchange

    diffusers_folder.check_vacant(args.path)
    loaded = load_run(args)
    return exchange.to_diffusers(loaded.config, loaded.params, args.path) | {"step": loaded.step, "ema": loaded.ema}
