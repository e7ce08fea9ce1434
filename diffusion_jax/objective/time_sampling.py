"""Which times a training batch looks at: `sample_times(history, key, index[B], batch_size) -> (t[B], weight[B])`.

`index` is the place of each example in the global batch, so that the times do not depend on how the batch is spread
over devices or accumulation steps. `history` is the state of adaptive samplers (None here). The weight keeps the loss
unbiased. With num_steps = T the times are those of a chain, k/T for k = 1..T; with 0 they are continuous in [min_t, 1].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.process.base import Array

SampleTimes = Callable[[Any, Array, Array, int], tuple[Array, Array]]


def uniform(num_steps: int, min_t: float = 0.0) -> SampleTimes:
    """Independent and uniform. Source: Ho et al. 2020, algorithm 1."""

    def sample_times(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        u = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(index)
        return _to_time(u, num_steps, min_t), jnp.ones_like(u)

    return sample_times


def low_discrepancy(num_steps: int, min_t: float = 0.0) -> SampleTimes:
    """One uniform offset for the global batch, u_i = frac(u_0 + i/batch_size): every part of the path gets its share.

    Source: Kingma et al. 2021, appendix I.1.
    """

    def sample_times(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        u = jnp.mod(jax.random.uniform(key) + index / batch_size, 1.0)
        return _to_time(u, num_steps, min_t), jnp.ones_like(u)

    return sample_times


def _to_time(u: Array, num_steps: int, min_t: float) -> Array:
    """u in [0,1) to k/num_steps, k = 1..num_steps, or to [min_t, 1)."""
    if not num_steps:
        return min_t + (1 - min_t) * u
    return jnp.minimum(jnp.floor(u * num_steps) + 1, num_steps) / num_steps


TIME_SAMPLERS: dict[str, Callable[..., SampleTimes]] = {"uniform": uniform, "low_discrepancy": low_discrepancy}
