"""What training carries from step to step, all of it in every checkpoint."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from diffusion_jax.experiment import wiring


@flax.struct.dataclass
class TrainState:
    """The state of a run. Batch n, its times, noise and dropout follow from (seed, step), so nothing else is needed."""

    step: jax.Array
    """Training steps taken, int32."""
    params: Any
    """{"net": …, and "schedule": … if it is learned}."""
    ema: dict[str, Any]
    """Exponential moving averages of params, by decay as written in the config, e.g. "0.9999"."""
    opt_state: Any
    history: Any
    """State of an adaptive time sampler, or None."""
    skipped: jax.Array
    """int32 [2]: updates skipped because they were not finite, in total and in a row."""


def create(
    params: Any, optimizer: optax.GradientTransformation, decays: tuple[float, ...], history: Any = None
) -> TrainState:
    """The state before the first step; every average starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema={str(decay): jax.tree.map(jnp.copy, params) for decay in decays},
        opt_state=optimizer.init(params),
        history=history,
        skipped=jnp.zeros(2, jnp.int32),
    )


def initial(config: ConfigDict, experiment: wiring.Experiment, key: jax.Array) -> TrainState:
    """The state in which a run of `config` starts."""
    params = wiring.init(config, experiment.network, key)
    return create(params, experiment.optimizer, config.ema.decays, experiment.times.init())
