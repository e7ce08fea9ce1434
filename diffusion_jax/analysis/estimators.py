"""The contract of likelihood estimators, and what they require of a run."""

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

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


class Evaluate(Protocol):
    """The work of an estimator, on a run that has been checked."""

    def __call__(self) -> Results:
        """Return values by name, and estimates that can be compared example by example."""


class Estimator(Protocol):
    """An estimator of the likelihood of held-out data."""

    def __call__(self, run: Run, /) -> Evaluate:
        """Check that the estimator suits the run, ValueError otherwise, and return the function that does the work."""


def dims(run: Run) -> int:
    """Return the number of dimensions of an example."""
    return math.prod(run.config.data.shape)


def needs_gaussian(name: str, run: Run) -> None:
    """Raise ValueError unless the process is Gaussian and data lie in [-1, 1] without scaling or dequantisation."""
    process = run.config.process.name
    if process != "gaussian":
        raise ValueError(f"{name}: needs process.name='gaussian' (got {process!r})")
    needs_plain_range(name, run)


def needs_plain_range(name: str, run: Run) -> None:
    """Raise ValueError unless data lie in [-1, 1] without scaling or dequantisation."""
    data = run.config.data
    if data.dequantise or data.mean != 0 or data.std != 1:
        raise ValueError(
            f"{name}: needs data in [-1, 1], so data.mean=0, data.std=1, data.dequantise=False (got {data.mean}, "
            f"{data.std}, {data.dequantise}). The bound K takes others"
        )
