"""Compute the feature statistics of real data, the reference of sample-quality metrics."""

from diffusion_jax.cli.common import Results, add_config_flags, config_of, output
from diffusion_jax.cli.parser import Flags, Parser, Path


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_config_flags(parser)
    parser.flag("features", str, "inception", "Feature network: inception, digits, grey28, pixels, module:function")
    parser.flag("inception", Path, "", "Inception weights written by import-inception (default: those in the cache).")
    parser.flag("split", str, "train", "Split of the data", ["train", "heldout"])
    parser.flag("keep", int, 10_000, "Number of examples whose features are stored as well")
    parser.flag("out", Path, "stats.npz", "File of the statistics")


def run(args: Flags) -> Results:
    """Write mean, covariance and some features of a whole split, with their provenance."""
    from diffusion_jax.experiment import quality, sources
    from diffusion_jax.metrics import reference

    out = output(args.out, ".npz")
    if args.keep < 2:
        raise ValueError(f"--keep={args.keep}: must be at least 2")
    config = config_of(args)
    source = sources.source(config, args.split)
    network = quality.feature_network(args.features, source.shape, source.levels, weights=args.inception)
    statistics = quality.measure(config, args.split, network, args.keep)
    reference.write(out, statistics)
    return {"stats": str(out), "kept": len(statistics.features), **statistics.provenance}
