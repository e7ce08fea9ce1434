"""Time distributions of training batches.

With num_steps = T the times are the levels of a chain, k/T for k = 1..T; with 0 they are continuous in [min_t, 1].
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.process.base import Array, Schedule, time_of


class SampleTimes(Protocol):
    """Draw of the times of a batch."""

    def __call__(self, history: Any, key: Array, index: Array, batch_size: int, /) -> tuple[Array, Array]:
        """Return (t[B], weight[B]); the weights keep the mean loss unbiased.

        key, batch_size: of the global batch. index: the place of each example in it, int [B], so that the times do not
        depend on how the batch is divided among devices.
        """


class TimeSampler(NamedTuple):
    """Time distribution of training, possibly adaptive: its history depends on earlier losses."""

    init: Callable[[], Any]
    """Returns the initial history, a tree of arrays; None for a sampler without history."""
    sample: SampleTimes
    update: Callable[[Any, Array, Array], Any]
    """(history, times [N], unweighted losses [N] of the global batch) -> the next history."""


def uniform(num_steps: int = 0, min_t: float = 0.0) -> TimeSampler:
    """Independent uniform times. Reference: Ho et al. 2020, algorithm 1."""

    def sample(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        u = _uniform_per_example(key, index)
        return _to_time(u, num_steps, min_t), jnp.ones_like(u)

    return _without_history(sample)


def low_discrepancy(num_steps: int = 0, min_t: float = 0.0) -> TimeSampler:
    """Stratified uniform times with one offset for the global batch: u_i = frac(u_0 + i/batch_size).

    Reference: Kingma et al. 2021, appendix I.1.
    """

    def sample(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        u = jnp.mod(jax.random.uniform(key) + index / batch_size, 1.0)
        return _to_time(u, num_steps, min_t), jnp.ones_like(u)

    return _without_history(sample)


@declare(weighs_times=True)
def log_normal(schedule: Schedule, min_t: float = 0.0, mean: float = -1.2, std: float = 1.2) -> TimeSampler:
    """Log-normal noise levels: ln(sigma/alpha) ~ N(mean, std²), clipped to the range of the schedule.

    The weight is 1: this distribution is part of the loss. For continuous time and a fixed schedule.
    Reference: Karras et al. 2022, table 1.
    """

    def sample(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        drawn = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(index)
        t = jnp.maximum(time_of(schedule, -2 * (mean + std * drawn)), min_t)
        return t, jnp.ones_like(t)

    return _without_history(sample)


@declare(weighs_times=True)
def logit_normal(num_steps: int = 0, min_t: float = 0.0, mean: float = 0.0, scale: float = 1.0) -> TimeSampler:
    """Logit-normal times: log(t/(1 - t)) ~ N(mean, scale²).

    The weight is 1: this distribution is part of the loss. Raises ValueError unless scale > 0.
    Reference: Esser et al. 2024, section 3.1.
    """
    if not scale > 0:
        raise ValueError(f"times.logit_normal.scale={scale}: must be above 0")

    def sample(history: Any, key: Array, index: Array, batch_size: int) -> tuple[Array, Array]:
        drawn = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(index)
        t = _to_time(jax.nn.sigmoid(mean + scale * drawn), num_steps, min_t)
        return t, jnp.ones_like(t)

    return _without_history(sample)


def importance(num_steps: int, min_t: float = 0.0, window: int = 10, uniform_share: float = 0.001) -> TimeSampler:
    """Loss-aware importance sampling of the steps k of a chain: p(k) proportional to sqrt(mean of L_k²).

    The weight is 1/(num_steps p(k)).
    The history is {"losses": float32 [num_steps, window], "count": int32 [num_steps]}. window: number of last losses at
    a step that are averaged; p is uniform until every step has as many. uniform_share: share of p that stays uniform.
    min_t is not used. Raises ValueError without a chain. Reference: Nichol and Dhariwal 2021, eq. 18.
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
        i = jnp.searchsorted(ends, _uniform_per_example(key, index) * ends[-1], side="right")
        i = jnp.minimum(i, num_steps - 1)
        return (i + 1) / num_steps, 1 / (num_steps * share[i])

    def update(history: dict[str, Array], t: Array, losses: Array) -> dict[str, Array]:
        i = jnp.round(t * num_steps).astype(jnp.int32) - 1
        same = i[:, None] == i[None, :]
        earlier = jnp.sum(jnp.tril(same, -1), axis=1)  # losses of this batch at the same step
        kept = jnp.sum(same, axis=1) - earlier <= window
        slot = jnp.where(kept, (history["count"][i] + earlier) % window, window)
        return {
            "losses": history["losses"].at[i, slot].set(losses.astype(jnp.float32), mode="drop"),
            "count": history["count"].at[i].add(1),
        }

    return TimeSampler(init, sample, update)


def _without_history(sample: SampleTimes) -> TimeSampler:
    return TimeSampler(lambda: None, sample, lambda history, t, losses: history)


def _uniform_per_example(key: Array, index: Array) -> Array:
    """Draw uniform numbers in [0, 1), each example from its own key."""
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(index)


def _to_time(u: Array, num_steps: int, min_t: float) -> Array:
    """Map u in [0,1) to k/num_steps, k = 1..num_steps, or to [min_t, 1) without 0."""
    if not num_steps:
        u = jnp.where(u == 0, jnp.finfo(u.dtype).eps / 2, u)  # half the distance of two draws
        return min_t + (1 - min_t) * u
    return jnp.minimum(jnp.floor(u * num_steps) + 1, num_steps) / num_steps


TIME_SAMPLERS: dict[str, Callable[..., TimeSampler]] = {
    "uniform": uniform,
    "low_discrepancy": low_discrepancy,
    "importance": importance,
    "log_normal": log_normal,
    "logit_normal": logit_normal,
}
"""Time samplers by name."""
