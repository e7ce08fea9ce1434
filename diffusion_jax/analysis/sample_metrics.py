"""Sample-quality metrics of a trained run, with confidence intervals and provenance.

run = trained.load("runs/digits")
network = quality.feature_network("digits", (8, 8, 1), levels=17)
reference = sample_metrics.own_reference(run, network)
record = sample_metrics.evaluate_samples(run, network, reference, ["fid", "pr"], sample_metrics.Options(1500))
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import devices, files
from diffusion_jax.analysis import metric_records
from diffusion_jax.analysis.heldout import map_batches
from diffusion_jax.data.scaling import from_model
from diffusion_jax.data.source import Source
from diffusion_jax.declarations import facts_of
from diffusion_jax.experiment import choices, generators, quality, sources
from diffusion_jax.metrics import bootstrap, neighbours, parzen_window, reference, registry
from diffusion_jax.metrics.features import FeatureNetwork, Features, extract, in_range
from diffusion_jax.metrics.frechet import frechet_pixels
from diffusion_jax.metrics.svm import svm_confidence
from diffusion_jax.process.base import example_keys
from diffusion_jax.runs import pictures, stored_samples, trained

log = logging.getLogger(__name__)

DRAWS = 20
"""Random subsets of the samples, as large as the held-out set, whose metrics are compared with it."""
PICTURED = 10
"""Samples in the picture of nearest neighbours."""


class Options(NamedTuple):
    """Options of an evaluation."""

    number: int = 0
    """Number of samples; 0: as many as the reference has examples."""
    seed: int = 0
    """Seed of the first sample."""
    allowed: tuple[str, ...] = ()
    """Checks to skip: "few" (fewer examples than features), "sizes" (sample and reference counts differ)."""
    replicates: int = 100
    """Replicates of the bootstrap; 0: no intervals."""
    heldout: bool = False
    """Also evaluate the held-out data, as many samples, and an autoencoder's reconstructions of them."""


def prepare_metrics(
    run: trained.Run, metrics: Sequence[str], features: str, weights: str, stats: str, options: Options
) -> Callable[[], dict[str, Any]]:
    """Check everything before any sample is drawn; return a function that evaluates.

    The function returns `flat` metrics. features: a name of `feature_networks.FEATURES`, or module:function. weights: a
    file of Inception weights, or "". stats: a file of `main stats`; "": statistics of the training data, measured once
    and stored in workdir/evaluation/stats_<features>.npz. Raises ValueError or FileNotFoundError.
    """
    config = run.config
    if "parzen" in metrics:
        window = parzen_metric(run, options)
        others = [name for name in metrics if name != "parzen"]
        rest = prepare_metrics(run, others, features, weights, stats, options) if others else dict
        return lambda: rest() | metric_records.flat(window())
    network = check_names(config, metrics, features, weights)
    if stats:
        ref = reference.read(stats)
        reference.check_fits(ref, reference.describe(network, tuple(config.data.shape), config.data.levels))
    else:  # the features of the training data may take minutes
        source = sources.source(config, "train")
        check(run, source.size, _dims(network, source), metrics, options)
        ref = own_reference(run, network)
    check(run, int(ref.provenance["count"]), len(ref.mean), metrics, options)
    return lambda: metric_records.flat(evaluate_samples(run, network, ref, metrics, options))


def own_reference(run: trained.Run, network: FeatureNetwork) -> reference.Reference:
    """Return the reference statistics of a run's training data, stored or computed now.

    The file evaluation/stats_<features>.npz of the run directory is read if its data set, feature network and package
    versions are those in use; otherwise it is written anew.
    """
    path = files.place_of(run.workdir) / "evaluation" / f"stats_{network.name}.npz"
    files.check_file(path)
    source = sources.source(run.config, "train")
    if path.exists():
        stored = reference.read(path)
        expected = {"data": source.name, "count": source.size, "versions": reference.versions()}
        expected["fingerprint"] = sources.fingerprint(source)
        expected |= reference.describe(network, source.shape, source.levels)
        if network.compiled and expected.items() <= stored.provenance.items():
            return stored
    measured = quality.measure(run.config, "train", network)
    if devices.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        reference.write(path, measured)
    return measured


def _dims(network: FeatureNetwork, source: Source) -> int:
    """Return the number of features, without computing any; 0 where only a computation tells."""
    if not network.compiled:
        return 0
    example = jax.ShapeDtypeStruct((1, *source.shape), np.uint8 if source.levels else np.float32)
    return int(jax.eval_shape(network.apply, network.params, example)[0].shape[-1])


def check(run: trained.Run, count: int, dims: int, metrics: Sequence[str], options: Options) -> tuple[int, list[str]]:
    """Return the number of samples, and warnings about their metrics.

    count: examples of the reference; dims: number of features. Raises ValueError if the samples do not fit.
    """
    config = run.config
    number = options.number or count
    trained.seeds_from(options.seed, number)
    if number < bootstrap.LEAST:
        raise ValueError(f"--num_samples={number}: metrics need at least {bootstrap.LEAST} samples")
    needed = {"--num_samples": registry.LEAST * (2 if options.replicates else 1), "reference": 2 * registry.LEAST}
    for name, size in {"--num_samples": number, "reference": count}.items():
        if "pr" in metrics and size < needed[name]:
            raise ValueError(f"{name}={size}: metrics=pr needs at least {needed[name]} examples. Leave pr out")
    check_options(options)
    if options.heldout or "nn" in metrics:
        flag = "--heldout" if options.heldout else "metrics=nn"
        heldout = sources.heldout_or_none(config, flag)
        if heldout is None:
            raise ValueError(f"{flag}: this run has no held-out data. Leave it out")
        if options.heldout and heldout.size > number:
            raise ValueError(f"--heldout: needs a sample for each held-out example, {heldout.size} (got {number})")
    warnings = {}
    if min(number, count) <= dims:  # n examples span n - 1 dimensions
        warnings["few"] = f"{min(number, count)} examples for {dims} features, so that their covariance is singular"
    if number != count:
        warnings["sizes"] = f"{number} samples are compared with {count} examples"
    for name, warning in warnings.items():
        if name not in options.allowed:
            raise ValueError(f"{warning}. Change --num_samples, or accept it with --allow={','.join(warnings)}")
    return number, [f"{name}: {warning}" for name, warning in warnings.items()]


def check_options(options: Options) -> None:
    """Raise ValueError for options that suit no run."""
    trained.seeds_from(options.seed, 1)
    unknown = set(options.allowed) - {"few", "sizes"}
    if unknown:
        raise ValueError(f"--allow={unknown.pop()}: unknown check. Use few, sizes")
    bootstrap.check_replicates(options.replicates)


def check_names(config: Any, metrics: Sequence[str], features: str, weights: str = "") -> FeatureNetwork:
    """Return the feature network. Raises ValueError for metrics that data or features cannot give."""
    for name in metrics:
        choices.choose("metrics", name, dict(registry.METRICS) | {"parzen": parzen_metric})
    others = [name for name in metrics if name != "parzen"]
    network = quality.feature_network(features, tuple(config.data.shape), config.data.levels, weights=weights)
    quality.check_metrics("metrics", config, others, network)
    return network


def evaluate_samples(
    run: trained.Run, network: FeatureNetwork, ref: reference.Reference, metrics: Sequence[str], options: Options
) -> dict[str, Any]:
    """Draw samples, or take the stored ones, and compute `metrics`, names of `registry.METRICS`.

    Returns the record that is also added to workdir/evaluation/<step>-<ema>/metrics.json: `figures`, {full name: value,
    with low and high of the 95 % interval}, and everything that they depend on. Raises ValueError as `check` does.
    """
    functions = [choices.choose("metrics", name, registry.METRICS) for name in metrics]
    reference.check_fits(ref, reference.describe(network, tuple(run.config.data.shape), run.config.data.levels))
    number, warnings = check(run, int(ref.provenance["count"]), len(ref.mean), metrics, options)
    if registry.memorisation_statistic in functions:
        split, count = ref.provenance["split"], int(ref.provenance["count"])
        if split != "train":
            raise ValueError(f"metrics=nn: needs statistics of the training data (got those of split={split})")
        if len(ref.features) < count:
            warnings.append(
                f"nn: compared with {len(ref.features):,} of {count:,} training examples; copies of others count as new"
            )
    for warning in warnings:
        log.warning("flagged: %s", warning)
    needs_heldout = options.heldout or any(facts_of(function).heldout for function in functions)
    heldout = quality.split_features(run.config, "heldout", network) if needs_heldout else None
    real = registry.RealFeatures(ref.mean, ref.cov, ref.features, heldout.features if heldout else None)

    seeds = trained.seeds_from(options.seed, number)
    samples, first = sample_features(run, network, seeds)
    entries: dict[str, dict[str, float]] = {}
    for name, statistic in _statistics(functions, real, samples).items():
        log.info("metrics: %s", name)
        entry = {"value": statistic(registry.ALL)}
        if options.replicates:
            low, high = bootstrap.interval(
                statistic, entry["value"], number, options.replicates, name=name, within=registry.range_of(name)
            )
            entry |= {"low": low, "high": high}
        entries[registry.full_name(name, network.name, number)] = entry
    if options.heldout and heldout:
        entries |= heldout_entries(functions, real, samples, heldout, network.name)
        if run.experiment.terms is not None:
            entries |= reconstruction_entries(run, functions, real, network)
    if registry.memorisation_statistic in functions and ref.provenance["split"] == "train":
        draw_neighbours(run, network, ref, samples, first)

    record = {
        "figures": entries,
        **metric_records.provenance(run, seeds),
        "bootstrap": {"replicates": options.replicates, "interval": 0.95, "reference": "held fixed"},
        "reference": ref.provenance,
        "kept_reference_features": len(ref.features),
        "marked": warnings,
    }
    metric_records.add_record(run, f"{network.name} {number} {stored_samples.directory_of(run).name}", record)
    return record


def parzen_metric(run: trained.Run, options: Options) -> Callable[[], dict[str, Any]]:
    """Return a function that computes the record of the Parzen window estimate.

    It is of the held-out data, in bits. The last `parzen_window.VALIDATION` training examples choose the width.
    Raises ValueError for floats.
    """
    levels = run.config.data.levels
    if not levels:
        raise ValueError("metrics=parzen: needs grey levels, but the data are floats. Leave it out")
    seeds = trained.seeds_from(options.seed, options.number or parzen_window.SAMPLES)

    train, heldout = sources.source(run.config, "train"), sources.heldout(run.config)

    def compute() -> dict[str, Any]:
        last = np.arange(max(0, train.size - parzen_window.VALIDATION), train.size)
        arrays = (
            stored_samples.samples(run, seeds),
            train.read(last)[0],
            heldout.read(np.arange(heldout.size))[0],
        )
        found = parzen_window.estimate(*(x.reshape(len(x), -1) / (levels - 1) for x in arrays))
        bits, stderr = found.mean / math.log(2), found.stderr / math.log(2)
        record = {
            "figures": {"parzen_bits": {"value": bits, "stderr": stderr, "samples": len(seeds)}},
            "sigma": found.sigma,
            **metric_records.provenance(run, seeds),
            "marked": [],
        }
        metric_records.add_record(run, f"parzen {len(seeds)} {stored_samples.directory_of(run).name}", record)
        return record

    return compute


def _statistics(
    functions: Sequence[registry.Metric], real: registry.RealFeatures, samples: Features
) -> dict[str, registry.Statistic]:
    return {name: statistic for function in functions for name, statistic in function(real, samples).items()}


def sample_features(
    run: trained.Run, network: FeatureNetwork, seeds: np.ndarray
) -> tuple[Features, dict[int, np.ndarray]]:
    """Return the features of samples at these seeds, and the first PICTURED by row."""
    order: list[np.ndarray] = []
    first: dict[int, np.ndarray] = {}

    def samples() -> Iterator[np.ndarray]:
        for rows, x in stored_samples.shards(run, seeds):
            order.append(rows)
            first.update((int(row), sample) for row, sample in zip(rows, x, strict=True) if row < PICTURED)
            yield in_range(network, run.config.data.levels, x)

    shuffled = extract(network, run.config.data.levels, samples(), len(seeds), "samples")
    back = np.argsort(np.concatenate(order))
    logits = None if shuffled.logits is None else shuffled.logits[back]
    return Features(shuffled.features[back], logits), first


def heldout_entries(
    functions: Sequence[registry.Metric],
    real: registry.RealFeatures,
    samples: Features,
    heldout: Features,
    features: str,
) -> dict[str, dict[str, float]]:
    """Return the metrics of the held-out data, and of as many samples.

    The former are what a perfect model would reach at this number of examples, which is not 0 or 1. The latter are the
    mean over DRAWS random subsets of the samples, where there are more samples than held-out data, and the standard
    deviation of one subset: that over the DRAWS, which share samples, divided by sqrt(1 - share of the samples).
    """
    count = len(heldout.features)
    real = real._replace(heldout=None)
    functions = [function for function in functions if not facts_of(function).heldout]
    rng = np.random.default_rng(0)
    subsets = [np.sort(rng.permutation(len(samples.features))[:count]) for _ in range(DRAWS)]
    entries = {}
    for name, statistic in _statistics(functions, real, heldout).items():
        entries[registry.full_name(f"heldout_{name}", features, count)] = {"value": statistic(registry.ALL)}
    smaller = _statistics(functions, real, samples) if count < len(samples.features) else {}
    for name, statistic in smaller.items():
        values = [statistic(rows) for rows in subsets]
        apart = math.sqrt(1 - count / len(samples.features))
        entry = {"value": float(np.mean(values)), "std": float(np.std(values, ddof=1)) / apart}
        entries[registry.full_name(name, features, count)] = entry
    return entries


def reconstruction_entries(
    run: trained.Run, functions: Sequence[registry.Metric], real: registry.RealFeatures, network: FeatureNetwork
) -> dict[str, dict[str, float]]:
    """Return the metrics of an autoencoder's reconstructions of the held-out data.

    They are decoded from the mean of q(z | x0). No model of its latents can be expected to draw better samples.
    """
    config, parts, examples = run.config, generators.autoencoder(run.config), sources.heldout(run.config)

    def reconstruct(params: Any, key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        keys = example_keys(key, batch["index"])
        mean, _ = parts["encode"](params, run.experiment.to_model(batch["x0"], keys))
        data = config.data
        return from_model(parts["generate"](params, mean), data.levels, data.mean, data.std)

    made = extract(
        network, config.data.levels, [map_batches(run, reconstruct, examples)], examples.size, "reconstructions"
    )
    functions = [function for function in functions if not facts_of(function).heldout]
    return {
        registry.full_name(f"reconstruction_{name}", network.name, examples.size): {"value": statistic(registry.ALL)}
        for name, statistic in _statistics(functions, real._replace(heldout=None), made).items()
    }


def draw_neighbours(
    run: trained.Run, network: FeatureNetwork, ref: reference.Reference, samples: Features, first: dict[int, np.ndarray]
) -> None:
    """Draw neighbours_<features>.png: the first samples, and below each the nearest training examples."""
    source = sources.source(run.config, "train")
    if source.size != ref.provenance["count"] or source.name != ref.provenance["data"]:
        log.warning(
            "no picture of neighbours: the reference is of %s, not of the training data", ref.provenance["data"]
        )
        return
    rows = sorted(first)
    nearest = neighbours.nearest(samples.features[rows], ref.features, min(4, len(ref.features)))[1]
    columns = [source.read(places)[0] for places in ref.places[nearest]]
    images = np.stack([np.stack([first[row] for row in rows]), *np.stack(columns, axis=1)])
    labels = ["sample", *(f"neighbour {i + 1}" for i in range(len(images) - 1))]
    path = trained.evaluation_directory(run) / f"neighbours_{network.name}.png"
    pictures.table(
        path, images, run.config.data.levels, labels, f"nearest training examples by {network.name} features"
    )
    log.info("nearest training examples: %s", path)


# Metrics of labelled data, and of data sets whose every example is known.


def svm_metrics(run: trained.Run, number: int, seed: int = 0) -> dict[str, float]:
    """Return `svm_confidence` of samples, and their Fréchet distance to the training data in pixels.

    The SVM needs held-out data, and labels of at least two classes.
    """
    samples = stored_samples.samples(run, seeds := trained.seeds_from(seed, number))
    train, heldout = sources.source(run.config, "train"), sources.heldout_or_none(run.config, "SVM")
    real = train.read(np.arange(train.size))
    values: dict[str, float] = {"num_samples": number, "network_calls": trained.network_calls(run)}
    if why := quality.svm_refusal(run.config, decode=True):
        log.warning("without SVM (eval.svm=True): it %s", why)
    elif heldout:
        real_heldout = heldout.read(np.arange(heldout.size))
        values |= svm_confidence(real, real_heldout, samples, trained.labels(run, seeds))
        values["heldout_frechet_pixels"] = frechet_pixels(real[0], real_heldout[0])
    return values | {"frechet_pixels": frechet_pixels(real[0], samples)}


def pattern_counts(run: trained.Run, number: int, seed: int = 0) -> dict[str, float]:
    """Return shares of valid patterns in samples. {} unless every example of the data is known."""
    count = sources.facts(run.config).counts
    if count is None:
        return {}
    return count(stored_samples.samples(run, trained.seeds_from(seed, number))) | {"num_samples": number}
