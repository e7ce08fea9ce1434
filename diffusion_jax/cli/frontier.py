"""Compare samplers: quality against network calls, as table and picture."""

from diffusion_jax.cli.common import Results, add_format, add_run_flags, add_seed, load_run
from diffusion_jax.cli.evaluate import add_feature_flags
from diffusion_jax.cli.parser import Flags, Parser


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "sampler", "data")
    parser.flag(
        "samplers",
        list,
        "ancestral,ddim,dpmpp_2m",
        "Samplers by commas: NAME, NAME:GRID or module:function",
    )
    parser.flag("steps", list, "5,10,15,25,50", "Numbers of steps, separated by commas (0: all steps of the chain)")
    parser.flag("num_samples", int, -1, "Number of samples of each sampler and number of steps (-1: eval.num_samples)")
    add_format(parser)
    add_seed(parser)
    add_feature_flags(parser, "", "pixels up to 1,024 dimensions, else inception")
    parser.flag("bootstrap", int, 100, "Bootstrap replicates of each confidence interval (0: no intervals)")


def run(args: Flags) -> Results:
    """Evaluate the samplers that are not evaluated yet, and print the table of all."""
    from diffusion_jax.analysis import frontier

    try:
        steps = [int(count) for count in args.steps]
    except ValueError:
        raise ValueError(f"--steps={','.join(args.steps)}: must be whole numbers, such as 5,10,20") from None
    loaded = load_run(args, idle=("sampler",))  # options of the samplers that are compared
    number = loaded.config.eval.num_samples if args.num_samples < 0 else args.num_samples
    text, figures = frontier.compare_samplers(
        loaded, args.samplers, steps, number, args.seed, args.features, args.inception, args.bootstrap
    )
    print(text)
    return {"step": loaded.step, "ema": loaded.ema, **figures}
