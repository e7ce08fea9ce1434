"""Sample-quality metrics of a config: its feature network, reference statistics, and the monitor of a training."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.experiment import choices, sources
from diffusion_jax.experiment.choices import choose
from diffusion_jax.metrics import feature_networks, features, monitor, reference, registry


def feature_network(name: str, shape: tuple[int, ...], levels: int, **options: Any) -> features.FeatureNetwork:
    """Return a network of `feature_networks.FEATURES`, or the user's own "module:function", for stored data.

    A function of the user takes NumPy arrays [B,*D] of stored data and returns features [B,F]. options: passed on to a
    factory that takes them. Raises ValueError for an unknown name.
    """
    if ":" not in name:
        factory = choose("features", name, feature_networks.FEATURES)
        taken = {key: value for key, value in options.items() if key in inspect.signature(factory).parameters}
        return feature_networks.on_stored(factory(shape, levels, **taken), levels)
    module, _, function = name.partition(":")
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"features={name!r}: cannot be imported ({error}). Use module:function") from error
    return features.own(function, own)


def measure(
    config: ConfigDict, split: str, network: features.FeatureNetwork, keep: int = reference.KEEP
) -> reference.Reference:
    """Return the reference statistics of a split of a config's data."""
    source, data = sources.source(config, split), config.data
    return reference.measure(source, network, split, keep, data.workers, choices.options(data))


def split_features(config: ConfigDict, split: str, network: features.FeatureNetwork) -> features.Features:
    """Return the features of every example of a split of a config's data, in order."""
    return reference.source_features(sources.source(config, split), network, config.data.workers)


def make_monitor(config: ConfigDict, draw: monitor.Draw) -> Callable[[Any], dict[str, float]]:
    """Return `evaluate(params) -> {full name: value}` of the metrics of config.eval.quality_metrics.

    The reference is the training split, measured here, in the features of config.eval.features. Raises ValueError if
    metrics or features are unknown or do not suit the data.
    """
    options = config.eval
    if not options.quality_metrics or options.quality_samples < 4:
        raise ValueError(
            f"eval.quality_every={options.quality_every}: needs eval.quality_metrics (got {options.quality_metrics}) "
            f"and eval.quality_samples of at least 4 (got {options.quality_samples})"
        )
    metrics = [choose("eval.quality_metrics", name, registry.METRICS) for name in options.quality_metrics]
    levels = config.data.levels
    network = feature_network(options.features, tuple(config.data.shape), levels)
    train = measure(config, "train", network)
    heldout = split_features(config, "heldout", network).features if "nn" in options.quality_metrics else None
    real = registry.RealFeatures(train.mean, train.cov, train.features, heldout)
    return monitor.make_monitor(metrics, network, real, draw, options.quality_samples, levels)
