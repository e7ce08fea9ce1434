"""Sample-quality metrics of a config. Its feature network, reference statistics, and the monitor of a training."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.data.source import subset
from diffusion_jax.declarations import facts_of
from diffusion_jax.experiment import choices, sources
from diffusion_jax.experiment.choices import choose
from diffusion_jax.metrics import feature_networks, features, monitor, reference, registry


def feature_network(name: str, shape: tuple[int, ...], levels: int, **options: Any) -> features.FeatureNetwork:
    """Return a network of `feature_networks.FEATURES`, or the user's own "module:function", for stored data.

    A function of the user takes NumPy arrays [B,*D] of stored data and returns features [B,F]. options: passed on to a
    factory that takes them. Raises ValueError for an unknown name.
    """
    factory = choose("features", name, feature_networks.FEATURES)
    if ":" in name:
        return features.own(name.partition(":")[2], factory)
    taken = {key: value for key, value in options.items() if key in inspect.signature(factory).parameters}
    return feature_networks.on_stored(factory(shape, levels, **taken), levels)


def measure(
    config: ConfigDict, split: str, network: features.FeatureNetwork, keep: int = reference.KEEP
) -> reference.Reference:
    """Return the reference statistics of a split of a config's data."""
    source, data = sources.source(config, split), config.data
    measured = reference.measure(source, network, split, keep, data.workers, choices.options(data))
    return measured._replace(provenance=measured.provenance | {"fingerprint": sources.fingerprint(source)})


def split_features(config: ConfigDict, split: str, network: features.FeatureNetwork) -> features.Features:
    """Return the features of a split of a config's data, in order."""
    return reference.source_features(sources.source(config, split), network, config.data.workers)


FOLDS = 5
"""Examples of each class that the cross-validation of the SVM needs."""


def svm_refusal(config: ConfigDict, decode: bool = False) -> str:
    """Return why `svm_confidence` cannot be computed for the data of a config; "" where it can.

    decode: count the labels of data on disk too, which reads every file.
    """
    if config.data.classes < 2:
        return f"needs labels of two classes or more (got data.classes={config.data.classes})"
    if sources.heldout_or_none(config) is None:
        return "needs held-out data, and these have none"
    train = sources.source(config, "train")
    if train.on_disk and not train.counts and not decode:
        return ""
    counts = np.array([n for n in train.counts if n])
    if not train.counts:
        counts = np.unique(train.read(np.arange(train.size))[1], return_counts=True)[1]
    if len(counts) < 2 or counts.min() < FOLDS:
        return f"needs two classes of {FOLDS} examples or more (got classes of {', '.join(map(str, counts[:10]))})"
    return ""


def check_evaluation(config: ConfigDict) -> None:
    """Raise ValueError for a key of config.eval that cannot be evaluated on the data."""
    if config.eval.svm and (why := svm_refusal(config)):
        raise ValueError(f"eval.svm: {why}. Use eval.svm=False")


def check_metrics(key: str, config: ConfigDict, names: Sequence[str], network: features.FeatureNetwork) -> None:
    """Raise ValueError for metrics that data or feature network cannot give. key: that names them, for errors."""
    for name in names:
        facts = facts_of(choose(key, name, registry.METRICS))
        if facts.heldout and sources.heldout_or_none(config) is None:
            raise ValueError(f"{key}={name}: needs held-out data, and these have none. Leave it out")
        if facts.logits and not classifies(network, tuple(config.data.shape), config.data.levels):
            raise ValueError(
                f"{key}={name}: features={network.name} have no classes. Leave it out, or use features=inception, "
                "digits or grey28"
            )
        if config.data.size and config.data.size < facts.least:
            raise ValueError(
                f"{key}={name}: needs {facts.least} training examples (got {config.data.size}). Leave it out"
            )


def classifies(network: features.FeatureNetwork, shape: tuple[int, ...], levels: int) -> bool:
    """Return True for a feature network with logits; it is traced, not run."""
    if not network.compiled:
        return False
    x = np.zeros((1, *shape), np.uint8 if levels else np.float32)
    return jax.eval_shape(network.apply, network.params, x)[1] is not None


def check_monitor(config: ConfigDict) -> None:
    """Check the keys of `make_monitor`, with the features of a few examples.

    Raises ValueError if metrics or features are unknown or do not suit the data, or config.checkpoint.best is none of
    the metrics.
    """
    options = config.eval
    if not options.quality_metrics:
        raise ValueError(f"eval.quality_every={options.quality_every}: needs eval.quality_metrics (got none)")
    metrics = [choose("eval.quality_metrics", name, registry.METRICS) for name in options.quality_metrics]
    network = _monitored_features(config)
    check_metrics("eval.quality_metrics", config, options.quality_metrics, network)
    if config.checkpoint.best == "heldout_loss":
        return
    least = max(monitor.FEW, *(facts_of(metric).least for metric in metrics))
    few = subset(sources.source(config, "train"), least)
    x = features.extract(network, config.data.levels, [few.read(np.arange(few.size))[0]], few.size, "data").features
    real = registry.RealFeatures(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)), x, x)
    aims = monitor.names(metrics, network, real, options.quality_samples)
    if config.checkpoint.best not in aims:
        allowed = ", ".join(["heldout_loss", *aims])
        raise ValueError(f"checkpoint.best={config.checkpoint.best!r}: not measured. Use one of {allowed}")


def make_monitor(config: ConfigDict, draw: monitor.Draw) -> Callable[[Any], dict[str, float]]:
    """Return `evaluate(params) -> {full name: value}` of the metrics of config.eval.quality_metrics.

    The reference is the training split, measured here, in the features of config.eval.features. Raises ValueError
    where `check_monitor` does.
    """
    options = config.eval
    metrics = [choose("eval.quality_metrics", name, registry.METRICS) for name in options.quality_metrics]
    network = _monitored_features(config)
    train = measure(config, "train", network)
    needs_heldout = any(facts_of(metric).heldout for metric in metrics)
    heldout = split_features(config, "heldout", network).features if needs_heldout else None
    real = registry.RealFeatures(train.mean, train.cov, train.features, heldout)
    return monitor.make_monitor(metrics, network, real, draw, options.quality_samples, config.data.levels)


def _monitored_features(config: ConfigDict) -> features.FeatureNetwork:
    return feature_network(config.eval.features, tuple(config.data.shape), config.data.levels)
