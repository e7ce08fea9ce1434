"""Parts of a training: keys, first state, step, batches, held-out loss."""

from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import devices
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.training import state, step

ORDERS_APART = 1_000_003
"""Increment of the data's seed at each roll-back."""


def keys(config: ConfigDict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the keys of a run: initial parameters, training, evaluation."""
    key_init, key_train, key_eval = jax.random.split(jax.random.key(config.seed), 3)
    return key_init, key_train, key_eval


def train_key(key: jax.Array, rollbacks: int) -> jax.Array:
    """Return the key of training, another one after each roll-back."""
    return jax.random.fold_in(key, rollbacks) if rollbacks else key


def initial_state(config: ConfigDict, experiment: wiring.Experiment, key: jax.Array, shapes: Any) -> state.TrainState:
    """Return the state before the first step, placed on its devices."""
    make = jax.jit(
        lambda key: state.initial(config, experiment, key),
        out_shardings=devices.shardings(shapes, config.parallel),
    )
    return make(key)


def training_step(config: ConfigDict, experiment: wiring.Experiment, shapes: Any) -> Callable[..., Any]:
    """Return `step(state, batch, key) -> (state, metrics)` on all devices; shapes: of the state."""
    made = step.make_train_step(
        experiment.loss,
        experiment.times,
        experiment.optimizer,
        config.batch_size,
        config.accumulate_steps,
        config.ema.ramp,
        experiment.to_model,
    )
    return devices.parallelise(made, config.parallel, shapes)


def device_batches(config: ConfigDict, source: Source, first: int, rollbacks: int) -> Generator[Any, None, None]:
    """Yield the batches from step `first` on, on the devices; this process reads its rows."""
    seed, data, rows = config.seed + ORDERS_APART * rollbacks, config.data, devices.local_rows(config.batch_size)
    made = pipeline.batches(
        source, seed, first, config.batch_size, data.flip, rows, data.workers, sources.coupling(config)
    )
    return pipeline.prefetch(made, devices.put_local_rows)


def heldout_loss(
    config: ConfigDict, experiment: wiring.Experiment, heldout: Source, key: jax.Array
) -> Callable[[Any], dict[str, float]]:
    """Return `evaluate(params) -> {"heldout_loss": mean over t, "heldout_loss_bin_0": …}`, a bin per interval of t.

    Times, noise and examples are the same at every call. The mean weighs the intervals equally.
    """
    examples = subset(heldout, config.eval.max_examples)
    rows_at_once = min(config.batch_size, examples.size)  # over which the times are spread
    steps = 1 if experiment.sampler.method.direct else config.process.num_steps
    measure = step.make_eval_step(experiment.loss, steps, rows_at_once, config.times.min_t, experiment.to_model)
    eval_step = devices.map_over_devices(lambda *args: measure(*args, axis=devices.AXIS), replicated=2, reduced=True)

    def evaluate(params: Any) -> dict[str, float]:
        total = None
        for i in range(config.eval.passes):
            batches = pipeline.in_order(examples, rows_at_once, workers=config.data.workers)
            for j, rows in enumerate(batches):
                key_j = jax.random.fold_in(jax.random.fold_in(key, i), j)
                sums = eval_step(params, key_j, devices.put_rows(pipeline.pad(rows, jax.device_count())))
                total = sums if total is None else jax.tree.map(np.add, total, sums)
        assert total is not None
        loss, count = (np.asarray(total[name], np.float64) for name in ("loss", "count"))
        per_bin = {f"heldout_loss_bin_{i}": s / c for i, (s, c) in enumerate(zip(loss, count, strict=True)) if c}
        return {"heldout_loss": float(np.mean(list(per_bin.values()))), **per_bin}

    return evaluate
