"""Which times a training batch looks at: functions of the place of each example in the global batch.

With num_steps = T the times are those of a chain, k/T for k = 1..T; with 0 they are continuous in [min_t, 1].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.process.base import Array, Schedule, time_of


class TimeSampler(NamedTuple):
    """Three functions. The history is what an adaptive sampler has learned so far, None for the others.

    init() -> history before the first step.
    sample(history, key, index[B], batch_size) -> (t[B], weight[B]): `index` is the place of each example in the global
        batch, so that times do not depend on how the batch is spread; the weight keeps the loss unbiased.
    update(history, t[N], losses[N]) -> history: from the whole global batch, losses before they are weighted.
    """

    init: Callable[[], Any]
    sample: Callable[[Any, Array, Array, int], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]


def uniform(num_steps: int, min_t: float = 0.0) -> TimeSampler:
    """Independent and uniform. Source: Ho et al. 2020, algorithm 1."""

    def sample(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        u = _own_uniform(key, index)
        return _to_time(u, num_steps, min_t), jnp.ones_like(u)

    return _without_history(sample)


def low_discrepancy(num_steps: int, min_t: float = 0.0) -> TimeSampler:
    """One uniform offset for the global batch, u_i = frac(u_0 + i/batch_size): every part of the path gets its share.

    Source: Kingma et al. 2021, appendix I.1.
    """

    def sample(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        u = jnp.mod(jax.random.uniform(key) + index / batch_size, 1.0)
        return _to_time(u, num_steps, min_t), jnp.ones_like(u)

    return _without_history(sample)


def log_normal(schedule: Schedule, min_t: float = 0.0, mean: float = -1.2, std: float = 1.2) -> TimeSampler:
    """ln(sigma/alpha) ~ N(mean, std²), as far as the schedule reaches. The weight is 1: that law is part of the loss.

    For continuous time and a fixed schedule. Source: Karras et al. 2022, table 1.
    """

    def sample(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        drawn = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(index)
        t = jnp.maximum(time_of(schedule, -2 * (mean + std * drawn)), min_t)
        return t, jnp.ones_like(t)

    return _without_history(sample)


def importance(num_steps: int, min_t: float = 0.0, window: int = 10, uniform_share: float = 0.001) -> TimeSampler:
    """p(k) in proportion to sqrt(mean of L_k²) over the last `window` losses at step k, weight 1/(num_steps p(k)).

    Uniform until every step has `window` losses, and with a `uniform_share` from then on. The history is
    {"losses": float32 [num_steps, window], "count": int32 [num_steps]}. Source: Nichol and Dhariwal 2021, eq. 18.
    Raises ValueError without a chain.
    """
    if not num_steps:
        raise ValueError("times.name='importance' keeps losses per step of a chain: set process.num_steps")

    def init() -> dict[str, Array]:
        return {"losses": jnp.zeros((num_steps, window)), "count": jnp.zeros(num_steps, jnp.int32)}

    def sample(history: dict[str, Array], key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        size = jnp.sqrt(jnp.mean(jnp.square(history["losses"]), axis=1))
        learned = (1 - uniform_share) * size / jnp.sum(size) + uniform_share / num_steps
        share = jnp.where(jnp.all(history["count"] >= window), learned, 1 / num_steps)
        ends = jnp.cumsum(share)
        i = jnp.searchsorted(ends, _own_uniform(key, index) * ends[-1], side="right")
        i = jnp.minimum(i, num_steps - 1)
        return (i + 1) / num_steps, 1 / (num_steps * share[i])

    def update(history: dict[str, Array], t: Array, losses: Array) -> dict[str, Array]:
        i = jnp.round(t * num_steps).astype(jnp.int32) - 1
        same = i[:, None] == i[None, :]
        earlier = jnp.sum(jnp.tril(same, -1), axis=1)  # of this batch, at the same step
        kept = jnp.sum(same, axis=1) - earlier <= window
        slot = jnp.where(kept, (history["count"][i] + earlier) % window, window)
        return {
            "losses": history["losses"].at[i, slot].set(losses.astype(jnp.float32), mode="drop"),
            "count": history["count"].at[i].add(1),
        }

    return TimeSampler(init, sample, update)


def _without_history(sample: Callable[[Any, Array, Array, int], tuple[Array, Array]]) -> TimeSampler:
    return TimeSampler(lambda: None, sample, lambda history, t, losses: history)


def _own_uniform(key: Array, index: Array) -> Array:
    """Uniform in [0, 1), each example from its own key."""
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(index)


def _to_time(u: Array, num_steps: int, min_t: float) -> Array:
    """u in [0,1) to k/num_steps, k = 1..num_steps, or to [min_t, 1)."""
    if not num_steps:
        return min_t + (1 - min_t) * u
    return jnp.minimum(jnp.floor(u * num_steps) + 1, num_steps) / num_steps


TIME_SAMPLERS: dict[str, Callable[..., TimeSampler]] = {
    "uniform": uniform,
    "low_discrepancy": low_discrepancy,
    "importance": importance,
    "log_normal": log_normal,
}
