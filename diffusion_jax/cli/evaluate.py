"""Evaluate a run: held-out loss, likelihoods and sample-quality metrics."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from diffusion_jax.cli.common import Results, add_format, add_run_flags, add_seed, load_run, sections_of
from diffusion_jax.cli.parser import Flags, Parser, Path

log = logging.getLogger(__name__)

SEVERAL_PROCESSES = True


def add_flags(parser: Parser) -> None:
    """Declare the flags."""
    add_run_flags(parser, "sampler", "guidance", "bound", "ode", "data")
    parser.flag("likelihood", str, "", "Likelihoods to compute, separated by commas: vlb, multi, ode, K")
    parser.flag(
        "metrics",
        list,
        "",
        "Metrics of samples, separated by commas: fid, kid, is, pr (precision and recall), nn, parzen",
    )
    parser.flag(
        "num_samples",
        int,
        -1,
        "Number of samples (0: none; -1: eval.num_samples, or the size of the reference set with --metrics)",
    )
    add_format(parser)
    add_seed(parser)
    parser.flag("scales", str, "", "Guidance scales to compare, such as 0,1,2,4")
    parser.flag("lengths", str, "", "Lengths sigma_rel of post-hoc averages to compare, such as 0.05,0.1,0.2")
    add_feature_flags(parser, "inception")
    parser.flag("stats", Path, "", "Reference statistics written by stats (default: those of the training data).")
    parser.flag(
        "allow",
        list,
        "",
        "Checks to skip, separated by commas: few (fewer samples than feature dimensions), "
        "sizes (sample and reference counts differ). Results are flagged",
    )
    parser.flag("bootstrap", int, 100, "Bootstrap replicates of each confidence interval (0: no intervals)")
    parser.flag(
        "heldout",
        bool,
        False,
        "Also compute the metrics for the held-out split, as the reference a perfect model would reach, and for its "
        "reconstructions by an autoencoder",
    )


def add_feature_flags(parser: Parser, default: str, meaning: str = "") -> None:
    """Declare the flags that choose a feature network. meaning: of an empty default."""
    names = "Feature network: inception, digits, grey28, pixels, module:function"
    parser.flag("features", str, default, f"{names} (default: {meaning})." if meaning else names)
    parser.flag("inception", Path, "", "Inception weights written by import-inception (default: those in the cache).")


def run(args: Flags) -> Results:
    """Compute every requested figure; all are stored in WORKDIR/evaluation as well."""
    from diffusion_jax.analysis import lengths, likelihoods, sample_metrics, scales
    from diffusion_jax.runs import trained

    check_flags(args)
    names = likelihoods.parse_names(args.likelihood)
    loaded = load_run(args)
    sigmas = lengths.parse(args.lengths, loaded.config)
    guidance_scales = scales.parse(args.scales, loaded.config)
    compute_likelihoods = likelihoods.prepare_likelihoods(loaded, names)
    number = loaded.config.eval.num_samples if args.num_samples < 0 else args.num_samples
    if guidance_scales:
        scales.check(loaded.config, number)
    trained.evaluation_directory(loaded)

    def metrics_of(loaded: trained.Run) -> Callable[[], Results]:
        if not args.metrics:
            return dict
        return sample_metrics.prepare_metrics(
            loaded, args.metrics, args.features, args.inception, args.stats, options_of(args)
        )

    compute_metrics = metrics_of(loaded)

    def in_bits(loaded: trained.Run) -> Results:
        figures, table = compute_likelihoods()
        if table:
            print(table)
        return figures

    def over_scales(loaded: trained.Run) -> Results:
        sections = {"verify": args.verify, **sections_of(args)}
        return {"guidance": scales.compare_scales(loaded, guidance_scales, sections, number, args.seed)}

    def over_lengths(loaded: trained.Run) -> Results:
        def measure(one: trained.Run) -> Results:
            losses = trained.heldout_loss(one)
            return {name: losses[name] for name in losses if name == "heldout_loss"} | metrics_of(one)()

        sections = {"verify": args.verify, **sections_of(args)}
        return {"averages": lengths.compare_lengths(loaded, sigmas, sections, measure)}

    parts: list[Callable[[trained.Run], Results]] = [trained.heldout_loss]
    if names:
        parts.append(in_bits)
    of_samples: list[Callable[[trained.Run], Results]] = []
    if guidance_scales:
        of_samples.append(over_scales)
    elif loaded.config.eval.svm and number:
        of_samples.append(lambda loaded: sample_metrics.svm_metrics(loaded, number, args.seed))
    if number:
        of_samples.append(lambda loaded: sample_metrics.pattern_counts(loaded, number, args.seed))
    of_samples.append(lambda _: compute_metrics())
    if sigmas:
        of_samples.append(over_lengths)
    figures: Results = {"step": loaded.step, "ema": loaded.ema}
    for part in parts:
        figures |= part(loaded)
        trained.save_figures(loaded, figures)
    sampled: Results = {}
    for part in of_samples:
        sampled |= part(loaded)
        trained.save_figures(loaded, figures, sampled)
    figures |= sampled
    for name, value in figures.items():
        log.info("%-26s %s", name, f"{value:.5f}" if isinstance(value, float) else value)
    return figures


def options_of(args: Flags) -> Any:
    """Return the options of the metrics."""
    from diffusion_jax.analysis import sample_metrics

    number = max(0, args.num_samples)
    return sample_metrics.Options(number, args.seed, tuple(args.allow), args.bootstrap, args.heldout)


def check_flags(args: Flags) -> None:
    """Raise ValueError for flags that no run could be evaluated with."""
    from diffusion_jax.analysis import sample_metrics

    if args.num_samples == 1 or args.num_samples < -1:
        raise ValueError(f"--num_samples={args.num_samples}: must be 0 (none), 2 or more, or -1 (eval.num_samples)")
    if args.metrics and not args.num_samples:
        raise ValueError("--num_samples=0: --metrics needs samples. Leave one of the two out")
    sample_metrics.check_options(options_of(args))


def check_words(words: Sequence[str], config: Any) -> None:
    """Raise ValueError if the flags cannot evaluate a run of this config.

    Called before the run is trained. What depends on the data is checked where the config has their shape.
    """
    from diffusion_jax import config as configs
    from diffusion_jax.analysis import lengths, likelihoods, sample_metrics, scales
    from diffusion_jax.experiment import guidances, wiring

    parser = Parser("evaluate", "")
    add_flags(parser)
    args = parser.read(["--workdir=later", *words])
    check_flags(args)
    likelihoods.parse_names(args.likelihood)
    config = config.copy_and_resolve_references()
    configs.override_all(config, args.overrides, start="--")
    lengths.parse(args.lengths, config)
    scales.parse(args.scales, config)
    if not config.data.shape or (config.latent.workdir and not config.latent.autoencoder):
        return
    if args.scales:
        scales.check(config, config.eval.num_samples if args.num_samples < 0 else args.num_samples)
    if [name for name in args.metrics if name != "parzen"]:  # which takes no features
        sample_metrics.check_names(config, args.metrics, args.features, args.inception)
    if not guidances.other_run(config):
        wiring.build(config)
