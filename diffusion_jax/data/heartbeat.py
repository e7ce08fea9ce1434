"""The binary heartbeat of Sohl-Dickstein et al. 2015: sequences in which every fifth bit is a one."""

import numpy as np

from diffusion_jax.data.source import Source, check_split, from_arrays

STEPS, PERIOD = 20, 5
PHASES = (np.arange(STEPS) % PERIOD == np.arange(PERIOD)[:, None]).astype(np.uint8)
"""All that there are, [5,20]."""


def heartbeat(split: str, size: int = 10_000) -> Source:
    """Bits uint8 [size,20], a one every five, the five phases in turn; labels are the phases. Both splits are alike."""
    check_split(split)
    if size < PERIOD:
        raise ValueError(f"heartbeat.size={size} must be at least {PERIOD}, to hold every phase")
    label = np.arange(size) % PERIOD
    return from_arrays(f"heartbeat/{split}", PHASES, np.arange(PERIOD), 2, PERIOD, rows=label)


def count(samples: np.ndarray) -> dict[str, float]:
    """Of bits [N,20]: the share that are heartbeats, and the shares of the rarest and the most frequent phase."""
    is_phase = (samples[:, None] == PHASES).all(axis=2).mean(axis=0)
    return {
        "heartbeat_valid": float(is_phase.sum()),
        "heartbeat_rarest_phase": float(is_phase.min()),
        "heartbeat_commonest_phase": float(is_phase.max()),
    }
