"""Training step and evaluation step, as functions of a device's share of the batch.

With an axis name, a step is mapped over devices (shard_map, pmap) and averages gradients over that axis; with
axis=None it computes on the whole batch. Random numbers depend on the key, the step and each example's place in the
global batch, so neither the number of devices nor gradient accumulation changes the result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffusion_jax import averages
from diffusion_jax.objective.losses import Batch, Loss
from diffusion_jax.objective.time_sampling import TimeSampler, low_discrepancy
from diffusion_jax.process.base import Array, example_keys
from diffusion_jax.training.state import TrainState

TrainStep = Callable[..., tuple[TrainState, dict[str, Array]]]
ToModel = Callable[[Array, Array], Array]
"""`to_model(x[B,*D] at rest, keys[B]) -> x0[B,*D]` in the model's range."""
BINS = 10
"""The held-out loss is also given for this many equal intervals of t."""


def make_train_step(
    loss: Loss,
    times: TimeSampler,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    accumulate_steps: int = 1,
    ema_ramp: float = 0.0,
    to_model: ToModel = lambda x, keys: x,
) -> TrainStep:
    """Build `train_step(state, batch, key, axis=None) -> (state, metrics)`.

    batch_size: examples of the global batch. to_model: turns x0 at rest into floats in the model's range.
    accumulate_steps: parts in which a device works through its share. ema_ramp: see `averages.ema_decay`.
    An update whose loss or gradient is not finite leaves parameters, averages and optimiser as they were, and is
    counted. Metrics are float32 scalars: loss, the metrics of the loss, grad_norm, skipped.
    """

    def gradients(params: Any, batch: Batch, t: Array, weight: Array, keys: Array) -> tuple[Any, Array]:
        """Return ((gradient, metrics), per_example[B]): means over the batch, and the unweighted losses."""
        batch = batch | {"x0": to_model(batch["x0"], keys)}

        def objective(params: Any) -> tuple[Array, tuple[dict[str, Array], Array]]:
            per_example, metrics = loss(params, batch, t, keys)
            mean = jnp.mean(weight * per_example)
            metrics = {name: jnp.mean(weight * value) for name, value in metrics.items()}
            return mean, ({"loss": mean, **metrics}, per_example)

        grads, (metrics, per_example) = jax.grad(objective, has_aux=True)(params)
        return (grads, metrics), per_example

    def accumulated(params: Any, *share: Any) -> tuple[Any, Array]:
        # Row i goes to part i mod accumulate_steps, so that rows spread over devices are so in every part.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulate_steps, *x.shape[1:]).swapaxes(0, 1), share)
        shapes, _ = jax.eval_shape(gradients, params, *jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total: Any, part: Any) -> tuple[Any, Array]:
            means, per_example = gradients(params, *part)
            return jax.tree.map(jnp.add, total, means), per_example

        total, per_example = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / accumulate_steps, total), per_example.T.reshape(-1)

    def train_step(
        state: TrainState, batch: Batch, key: Array, axis: str | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        key_times, key_examples = jax.random.split(jax.random.fold_in(key, state.step))
        t, weight = times.sample(state.history, key_times, batch["index"], batch_size)
        keys = example_keys(key_examples, batch["index"])
        share = gradients if accumulate_steps == 1 else accumulated
        (grads, metrics), per_example = share(state.params, batch, t, weight, keys)
        if axis is not None and jax.lax.axis_size(axis) > 1:  # on a CPU the mean over one device is a copy
            grads, metrics = jax.lax.pmean((grads, metrics), axis)

        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        history = times.update(state.history, *in_order(batch["index"], (t, per_example), axis))

        def updated() -> tuple[Any, ...]:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            done = state.step - state.skipped[0]
            ema = {
                name: optax.incremental_update(params, average, averages.step_size(name, done, ema_ramp))
                for name, average in state.ema.items()
            }
            return params, ema, opt_state, history

        # A branch, not a choice between results: that would copy parameters, averages and moments at every step.
        kept = state.params, state.ema, state.opt_state, state.history
        params, ema, opt_state, history = jax.lax.cond(finite, updated, lambda: kept)
        skipped = jnp.where(finite, state.skipped * jnp.array([1, 0]), state.skipped + 1)
        metrics |= {"grad_norm": grad_norm, "skipped": skipped[0].astype(jnp.float32)}
        changed = {"params": params, "ema": ema, "opt_state": opt_state, "history": history, "skipped": skipped}
        return dataclasses.replace(state, step=state.step + 1, **changed), metrics

    return train_step


def in_order(index: Array, values: Any, axis: str | None) -> Any:
    """Gather per-example values [B] of all devices as [N], in the order of the global batch."""
    if axis is not None:
        index, values = jax.lax.all_gather((index, values), axis, tiled=True)
    return jax.tree.map(lambda value: value[jnp.argsort(index)], values)


def make_eval_step(
    loss: Loss, num_steps: int, batch_size: int, min_t: float = 0.0, to_model: ToModel = lambda x, keys: x
) -> Callable[..., dict[str, Array]]:
    """Build `eval_step(params, key, batch, axis=None) -> sums`: the loss without dropout, as sums per interval of t.

    batch: as for training, with "mask" [B], 0 for padding. Sums: "loss" and "count", each float32 [BINS]. Times are
    spread evenly over the batch, and with a fixed key times and noise are the same at every evaluation.
    """
    times = low_discrepancy(num_steps, min_t)

    def eval_step(params: Any, key: Array, batch: Batch, axis: str | None = None) -> dict[str, Array]:
        key_times, key_examples = jax.random.split(key)
        t, _ = times.sample(None, key_times, batch["index"], batch_size)
        keys = example_keys(key_examples, batch["index"])
        batch = batch | {"x0": to_model(batch["x0"], keys)}
        per_example, _ = loss(params, batch, t, keys, dropout=False)
        interval = jnp.ceil(t * BINS).astype(jnp.int32) - 1
        if num_steps:  # k / T * BINS is a rounding off for some k
            interval = (jnp.round(t * num_steps).astype(jnp.int32) * BINS - 1) // num_steps
        bins = jax.nn.one_hot(interval, BINS) * batch["mask"][:, None]
        sums = {"loss": (per_example[:, None] * bins).sum(0), "count": bins.sum(0)}
        return sums if axis is None else jax.lax.psum(sums, axis)

    return eval_step
