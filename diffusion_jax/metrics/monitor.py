"""Figures of samples while a run trains: few samples, in few steps, with the metrics of `evaluation.figures`."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.experiment import choices, sources
from diffusion_jax.metrics import figures, reference

log = logging.getLogger(__name__)

RISE = ("is_1split", "precision", "recall", "density", "coverage")
"""Figures that are better the larger they are; memorisation is best at 1/2, and no aim."""


def judging(config: ConfigDict, draw: Callable[[Any, np.ndarray], np.ndarray]) -> Callable[[Any], dict[str, float]]:
    """`judge(params) -> figures by full name` of config.eval.quality_samples samples at seeds 0, 1, …

    draw: `draw(params, seeds [N]) -> samples at rest`. The reference is the training split, measured here, in the
    features of config.eval.features. Raises ValueError where the config's metrics or features do not suit its data.
    """
    options = config.eval
    if not options.quality_metrics or options.quality_samples < 4:
        raise ValueError(
            f"eval.quality_every={options.quality_every} wants eval.quality_metrics, now {options.quality_metrics}, "
            f"and eval.quality_samples of 4 or more, now {options.quality_samples}"
        )
    functions = [choices.choose("eval.quality_metrics", name, figures.METRICS) for name in options.quality_metrics]
    network = sources.feature_network(options.features, tuple(config.data.shape), config.data.levels)
    found = reference.measure(config, "train", network)
    heldout = reference.of_split(config, "heldout", network).features if "nn" in options.quality_metrics else None
    real = figures.Real(found.mean, found.cov, found.features, heldout)
    seeds = np.arange(options.quality_samples)

    def judge(params: Any) -> dict[str, float]:
        samples = reference.extract(network, config.data.levels, [draw(params, seeds)], len(seeds), "samples")
        each = {name: figure for function in functions for name, figure in function(real, samples).items()}
        return {figures.name(name, network.name, len(seeds)): figure(figures.ALL) for name, figure in each.items()}

    return judge


def aim(name: str, measured: dict[str, float]) -> float | None:
    """What `best` minimises: the figure config.checkpoint.best names, negated if larger is better; None if not there.

    Raises ValueError if there are figures, but not this one.
    """
    if not measured:
        return None
    if name not in measured:
        raise ValueError(f"checkpoint.best={name!r} is not measured; use one of {', '.join(measured)}")
    return -measured[name] if name.startswith(RISE) else measured[name]
