"""Encode held-out examples as noise, and decode them again."""

from diffusion_jax.cli.common import Results, add_format, add_run_flags, load_run, output
from diffusion_jax.cli.parser import Flags, Parser, Path


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "sampler", "ode", "data")
    add_format(parser)
    parser.flag("out", Path, "latents.npz", "File of the noise")
    parser.flag("num_examples", int, 64, "Number of held-out examples")
    parser.flag("by", str, "ode", "Method: ode, or ddim (its inversion, in the steps of the sampler)", ["ode", "ddim"])


def run(args: Flags) -> Results:
    """Carry held-out examples to t = 1 and back."""
    from diffusion_jax.analysis import latents

    idle = {"ode": "sampler.", "ddim": "ode."}[args.by]
    for key in args.overrides:
        if (key.startswith(idle) and key not in ("ode.min_t", "sampler.tile")) or key == "sampler.name":
            raise ValueError(f"--{key}: has no effect with --by={args.by}. Leave it out")
    out = output(args.out, ".npz", picture=args.format)
    loaded = load_run(args)
    return {"step": loaded.step, "ema": loaded.ema, **latents.encode_heldout(loaded, args.num_examples, out, args.by)}
