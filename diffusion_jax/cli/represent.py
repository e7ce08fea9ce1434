"""Measure a run's representations: linear probes, clusters, and classification by a conditional model."""

from diffusion_jax.cli.common import Results, add_run_flags, load_run
from diffusion_jax.cli.parser import Flags, Parser


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "bound", "data")
    parser.flag("num_examples", int, 2000, "Number of training and of held-out examples at most")
    parser.flag("num_steps", int, 5, "Noise levels")
    parser.flag("num_classified", int, 500, "Number of held-out examples that a conditional run classifies; 0: none")
    parser.flag("seed", int, 0, "Seed of folds, halves, k-means and mixtures")


def run(args: Flags) -> Results:
    """Compare features of the network with pixels and with their principal components."""
    from diffusion_jax.analysis import representation, tables
    from diffusion_jax.runs import trained

    representation.check_numbers(args.num_examples, args.num_steps, args.num_classified)
    if "bound.num_steps" in args.overrides:
        raise ValueError("--bound.num_steps: is set by --num_steps here. Use that")
    args.overrides["bound.num_steps"] = str(args.num_steps)
    loaded = load_run(args)
    trained.evaluation_directory(loaded)
    figures = representation.represent(loaded, args.num_examples, args.seed, args.num_classified)
    trained.save_figures(loaded, figures)
    rows = [
        [
            name,
            f"{figures[f'{prefix}probe_accuracy']:.3f} ± {figures[f'{prefix}probe_accuracy_stderr']:.3f}",
            *(f"{figures[f'{prefix}cluster_{key}']:.3f}" for key in ("nmi", "ari", "accuracy")),
            f"{figures[f'{prefix}mixture_nmi']:.3f}",
        ]
        for name, prefix in (("network", ""), ("pixels", "pixels_"), ("principal components", "pca_"))
    ]
    print(tables.markdown(["features", "linear probe", "cluster NMI", "ARI", "accuracy", "mixture NMI"], rows))
    return {"step": loaded.step, **figures}
