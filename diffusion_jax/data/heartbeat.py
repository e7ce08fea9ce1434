"""Data source: the binary heartbeat of Sohl-Dickstein et al. 2015, in which every fifth bit is a one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax.data.source import Source, check_split, from_arrays
from diffusion_jax.declarations import declare

STEPS, PERIOD = 20, 5
PHASES = (np.arange(STEPS) % PERIOD == np.arange(PERIOD)[:, None]).astype(np.uint8)
"""The five possible sequences, [5,20]."""


def count(samples: np.ndarray) -> dict[str, float]:
    """Count heartbeats in bits [N,20].

    Returns the share of valid examples, and the shares of the rarest and the commonest phase.
    """
    is_phase = (samples[:, None] == PHASES).all(axis=2).mean(axis=0)
    return {
        "heartbeat_valid": float(is_phase.sum()),
        "heartbeat_rarest_phase": float(is_phase.min()),
        "heartbeat_commonest_phase": float(is_phase.max()),
    }


def negative_entropies(options: Mapping[str, Any], process: Any, alpha: float, sigma: float) -> dict[str, float]:
    """Return `entropies.heartbeat` for the binomial process; {} for any other process."""
    from diffusion_jax.data import entropies

    return {} if not hasattr(process, "rate") else entropies.heartbeat(process.rate, alpha)


@declare(counts=count, entropies=negative_entropies)
def heartbeat(split: str, size: int = 10_000) -> Source:
    """Return bits uint8 [size,20], the five phases in turn; the labels are the phases.

    Both splits are the same. Raises ValueError for fewer than five examples.
    """
    check_split(split)
    if size < PERIOD:
        raise ValueError(f"data.heartbeat.size={size}: must be at least {PERIOD}, one example of each phase")
    label = np.arange(size) % PERIOD
    return from_arrays(f"heartbeat/{split}", PHASES, np.arange(PERIOD), 2, PERIOD, rows=label)
