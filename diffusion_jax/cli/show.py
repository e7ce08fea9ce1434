"""Draw progressive decoding and generation, samples that share x_t, and interpolations."""

from diffusion_jax.cli.common import Results, add_format, add_run_flags, add_seed, load_run
from diffusion_jax.cli.parser import Flags, Parser


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "sampler", "guidance", "data")
    parser.flag("num_samples", int, 8, "Number of samples in a picture")
    add_format(parser)
    add_seed(parser)


def run(args: Flags) -> Results:
    """Write the pictures to WORKDIR/evaluation."""
    from diffusion_jax.analysis import progression

    loaded = load_run(args)
    pictures = progression.draw_progression(loaded, args.num_samples, args.seed)
    return {"step": loaded.step, "ema": loaded.ema, **pictures}
