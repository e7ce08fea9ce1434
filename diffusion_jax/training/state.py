"""Training state, saved whole in every checkpoint."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from diffusion_jax.experiment import wiring

RAW = "none"
"""Name of the parameters themselves, where the name of an average is its decay."""


@flax.struct.dataclass
class TrainState:
    """State of a run; batch n, its times, noise and dropout follow from (seed, step)."""

    step: jax.Array
    """Training steps taken, int32."""
    params: Any
    """{"net": …, and "schedule": … if it is learned}."""
    ema: dict[str, Any]
    """Moving averages of params, by name as written in the config: a decay, e.g. "0.9999", or "power:0.1"."""
    opt_state: Any
    history: Any
    """State of an adaptive time sampler, or None."""
    skipped: jax.Array
    """int32 [2]: updates skipped because they were not finite, in total and in a row."""


def create(
    params: Any, optimizer: optax.GradientTransformation, decays: tuple[float, ...], history: Any = None
) -> TrainState:
    """Return the state before the first step. Every average starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema={str(decay): jax.tree.map(jnp.copy, params) for decay in decays},
        opt_state=optimizer.init(params),
        history=history,
        skipped=jnp.zeros(2, jnp.int32),
    )


def first_average(config: ConfigDict) -> str:
    """Return the decay of the average that a config names first, or RAW."""
    return str(next(iter(config.ema.decays), RAW))


def weights(train_state: TrainState, name: str) -> Any:
    """Return an average by its decay, or with RAW the parameters."""
    return train_state.params if name == RAW else train_state.ema[name]


def describe_weights(name: str) -> str:
    """Return "EMA 0.9999" for an average by its decay, "raw weights" for RAW."""
    return "raw weights" if name == RAW else f"EMA {name}"


def initial(config: ConfigDict, experiment: wiring.Experiment, key: jax.Array) -> TrainState:
    """Return the initial state of a run."""
    params = wiring.init(config, experiment.network, key)
    return create(params, experiment.optimizer, config.ema.decays, experiment.times.init())
