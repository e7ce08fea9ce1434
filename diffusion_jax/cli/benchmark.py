"""Measure the speed of training and sampling on this machine."""

from diffusion_jax.cli.common import Results, add_config_flags, config_of
from diffusion_jax.cli.parser import Flags, Parser, Path

COMPILE_CACHE = False
"""Compilation is measured too."""


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_config_flags(parser)
    parser.flag("batch_size", int, 0, "Examples of a global batch, a network call and a sampler run (0: config)")
    parser.flag("repeats", int, 10, "Timings behind each median")
    parser.flag(
        "features", str, "", "Feature network to time as well: inception, digits, grey28, pixels, module:function"
    )
    parser.flag("inception", Path, "", "Inception weights written by import-inception (default: those in the cache).")


def run(args: Flags) -> Results:
    """Print the timings and return them."""
    import jax

    from diffusion_jax.analysis import timing

    config = config_of(args)
    if args.batch_size:
        config.batch_size = args.batch_size
        config.sampler.tile = max(1, args.batch_size // jax.device_count())
    text, figures = timing.benchmark(config, args.repeats, args.started, args.features, args.inception)
    print(text)
    return figures
