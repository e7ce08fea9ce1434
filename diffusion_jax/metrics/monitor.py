"""Sample-quality metrics while a model trains, from few samples in few sampler steps."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_jax.declarations import facts_of
from diffusion_jax.metrics import registry
from diffusion_jax.metrics.features import FeatureNetwork, Features, extract, in_range

LARGER_IS_BETTER = ("is_1split", "precision", "recall", "density", "coverage")
"""Beginnings of the names of these metrics.

All other metrics are better the smaller, but memorisation is best at 1/2.
"""
FEW = 8
"""Examples that show the names of the statistics."""
Draw = Callable[[Any, np.ndarray], np.ndarray]
"""`draw(params, seeds [N])` returns samples [N,*D], in the levels of the data."""


def make_monitor(
    metrics: Sequence[registry.Metric],
    network: FeatureNetwork,
    real: registry.RealFeatures,
    draw: Draw,
    number: int,
    levels: int,
) -> Callable[[Any], dict[str, float]]:
    """Return `evaluate(params) -> {full name: value}` from `number` samples, at seeds 0, 1, …"""
    seeds = np.arange(number)

    def evaluate(params: Any) -> dict[str, float]:
        samples = extract(network, levels, [in_range(network, levels, draw(params, seeds))], number, "samples")
        statistics = {name: value for metric in metrics for name, value in metric(real, samples).items()}
        return {
            registry.full_name(name, network.name, number): statistic(registry.ALL)
            for name, statistic in statistics.items()
        }

    return evaluate


def names(
    metrics: Sequence[registry.Metric], network: FeatureNetwork, real: registry.RealFeatures, number: int
) -> list[str]:
    """Return the full names of what a monitor measures.

    A few real examples as samples give the names.
    """
    few = real.features[: max(FEW, *(facts_of(metric).least for metric in metrics))]
    small, samples = real._replace(features=few), Features(few, np.zeros((len(few), 2)))
    short = [name for metric in metrics for name in metric(small, samples)]
    return [registry.full_name(name, network.name, number) for name in short]


def objective(name: str, values: dict[str, float]) -> float | None:
    """Return the value that the best checkpoint minimises.

    It is the metric of this full name, negated if larger is better, and the distance from 1/2 for memorisation. None if
    nothing was measured.
    """
    if not values:
        return None
    if name.startswith("memorisation"):
        return abs(values[name] - 0.5)
    return -values[name] if name.startswith(LARGER_IS_BETTER) else values[name]
