"""The contract of likelihood estimators, and what they require of a run."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.data.scaling import is_plain
from diffusion_jax.runs.trained import Run


class Estimate(NamedTuple):
    """Negative log-likelihoods of held-out examples by one estimator."""

    name: str
    bits: np.ndarray
    """[N] bits/dim"""
    calls: float
    """Network calls per example, on average."""


Results = tuple[dict[str, Any], list[Estimate]]
"""Values by name, and the rows of the table."""
Evaluate = Callable[[], Results]
Estimator = Callable[[Run], Evaluate]
"""`estimator(run)` raises ValueError if it does not suit the run, and returns the function that does the work."""


def dims(run: Run) -> int:
    """Return the number of dimensions of an example."""
    return math.prod(run.config.data.shape)


def needs_gaussian(name: str, run: Run) -> None:
    """Raise ValueError unless the process is Gaussian, with data in [-1, 1].

    Data with scaling or dequantisation are refused.
    """
    if not run.experiment.process.gaussian:
        raise ValueError(f"{name}: needs Gaussian noise (got process.name={run.config.process.name!r})")
    needs_plain_range(name, run)


def needs_denoiser(name: str, run: Run) -> None:
    """Raise ValueError for a model without noise levels: an autoencoder or a GAN."""
    if run.experiment.sampler.method.direct:
        raise ValueError(f"{name}: needs a denoiser, which loss.name={run.config.loss.name!r} does not train")


def needs_no_label(name: str, run: Run) -> None:
    """Raise ValueError for a conditional model that was never trained without a label."""
    network = run.config.network
    if network.conditional and not network.label_dropout:
        raise ValueError(
            f"{name}: evaluates the model without a label, which it was not trained for (got network.conditional=True, "
            "network.label_dropout=0). Use a run with label dropout, such as digits_cond"
        )


def needs_plain_range(name: str, run: Run) -> None:
    """Raise ValueError unless data lie in [-1, 1] without scaling or dequantisation."""
    data = run.config.data
    if not is_plain(data):
        raise ValueError(
            f"{name}: needs data in [-1, 1], so data.mean=0, data.std=1, data.dequantise=False (got {data.mean}, "
            f"{data.std}, {data.dequantise}). The bound K takes others"
        )
