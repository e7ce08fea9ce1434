"""Parts of a training: what the config names, checked; keys, first state, step, batches."""

import logging
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import devices
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source
from diffusion_jax.experiment import drawing, optimizers, quality, sources, wiring
from diffusion_jax.training import autoencoders, state, step

log = logging.getLogger(__name__)

ORDERS_APART = 1_000_003
"""Increment of the data's seed at each roll-back."""


class Parts(NamedTuple):
    """Parts of a training. Nothing of them is compiled."""

    config: ConfigDict
    """With every value that the data or the stored run decide."""
    experiment: wiring.Experiment
    source: Source
    heldout: Source | None
    """None without eval.every."""
    draw: Callable[[Any, np.ndarray], np.ndarray] | None
    """`drawing.quick_samples`, where the config asks for pictures or metrics of samples."""
    shapes: Any
    """Shapes and types of the state."""


def prepare(config: ConfigDict, workdir: str, stored: Mapping[str, Any], verify: bool = True) -> Parts:
    """Return the parts of a training, checked. stored: the config of the newest checkpoint, {} without one.

    Raises ValueError or OSError, naming a key, where the config does not fit its data or the devices.
    """
    source, heldout = sources.source(config, "train"), None
    config = optimizers.fill_in(sources.resolve(config, source), stored)
    config = autoencoders.attach(config, workdir if stored else "", source, verify)
    experiment = wiring.build(config)
    quality.check_evaluation(config)
    devices.check(config.batch_size, config.accumulate_steps, config.parallel, config.require_accelerator)
    pipeline.check(source, config.seed, 0, config.batch_size, config.data.flip)
    if stored:
        config = sources.with_heldout(config, stored["data"].get("heldout_fingerprint", ""))
    if config.eval.every:
        heldout = sources.source(config, "heldout")
        before, now = config.data.heldout_fingerprint, sources.fingerprint(heldout)
        if str(config.data.name) == sources.IN_MEMORY and before not in ("", now):  # others are compared as they open
            log.warning("heldout: the data are not those of the run so far; its held-out losses cannot be compared")
        config = sources.with_heldout(config, now)
    if config.report.samples_every and len(config.data.shape) not in (1, 3):
        raise ValueError(
            f"report.samples_every={config.report.samples_every}: examples of shape {tuple(config.data.shape)} are no "
            "pictures. Set it to 0"
        )
    draw = drawing.quick_samples(config) if config.report.samples_every or config.eval.quality_every else None
    if config.eval.quality_every:
        quality.check_monitor(config)
    return Parts(config, experiment, source, heldout, draw, state_shapes(config, experiment))


def state_shapes(config: ConfigDict, experiment: wiring.Experiment) -> Any:
    """Return shapes and types of the state."""
    return jax.eval_shape(lambda: state.initial(config, experiment, keys(config)[0]))


def keys(config: ConfigDict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the keys of a run: initial parameters, training, evaluation."""
    key_init, key_train, key_eval = jax.random.split(jax.random.key(config.seed), 3)
    return key_init, key_train, key_eval


def train_key(config: ConfigDict, rollbacks: int = 0) -> jax.Array:
    """Return the key of training, another one after each roll-back."""
    key = keys(config)[1]
    return jax.random.fold_in(key, rollbacks) if rollbacks else key


def initial_state(config: ConfigDict, experiment: wiring.Experiment, shapes: Any) -> state.TrainState:
    """Return the state before the first step, placed on its devices. shapes: of the state."""
    make = jax.jit(
        lambda key: state.initial(config, experiment, key),
        out_shardings=devices.shardings(shapes, config.parallel),
    )
    return make(keys(config)[0])


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
