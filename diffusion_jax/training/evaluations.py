"""Measurements along a training: held-out loss, metrics of samples, sample grids."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import devices
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import quality, sources, wiring
from diffusion_jax.metrics import monitor
from diffusion_jax.runs import metric_log
from diffusion_jax.training import reports, setup, state, step

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Measured:
    """Values measured at one step, filled in as they are known."""

    results: dict[str, float] = dataclasses.field(default_factory=dict)
    heldout_loss: float | None = None
    aim: float | None = None
    """The metric of checkpoint.best."""
    pictured: bool = False


HeldoutLoss = Callable[[Any], dict[str, float]]
"""`evaluate(params)`, see `heldout_loss`."""


def make(
    parts: setup.Parts, shown: str, heldout: HeldoutLoss | None, reporter: metric_log.Reporter
) -> Callable[[Measured, int, bool, state.TrainState], None]:
    """Return `measure(measured, n, last, train_state)`, which does what is due after step n, the last one or not.

    shown: the weights that are evaluated, as `state.weights` takes them. heldout: None without held-out data.
    """
    config, draw = parts.config, parts.draw
    every = config.eval
    metrics = quality.make_monitor(config, draw) if draw and every.quality_every else None
    seeds = np.arange(config.report.num_samples)

    def compute_loss(measured: Measured, n: int, train_state: state.TrainState) -> None:
        assert heldout
        losses = heldout(state.weights(train_state, shown))
        measured.heldout_loss = losses["heldout_loss"]
        if shown != state.RAW:
            losses[reports.RAW_LOSS] = heldout(train_state.params)["heldout_loss"]
        reporter.scalars(n, losses)
        log.info("step %d: held-out loss %s", n, reports.heldout_text(losses, shown))
        measured.results |= {name: losses[name] for name in ("heldout_loss", reports.RAW_LOSS) if name in losses}

    def compute_metrics(measured: Measured, n: int, train_state: state.TrainState) -> None:
        if not (figures := if_finite(n, metrics, state.weights(train_state, shown))):
            return
        reporter.scalars(n, figures)
        listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("step %d: %s (%s)", n, listed, state.describe_weights(shown))
        measured.results |= figures
        if config.checkpoint.best != "heldout_loss":
            measured.aim = monitor.objective(config.checkpoint.best, figures)

    def draw_grid(measured: Measured, n: int, train_state: state.TrainState) -> None:
        samples = if_finite(n, draw, state.weights(train_state, shown), seeds)
        if samples is None:
            return
        labels = parts.experiment.sampler.labels(jax.numpy.asarray(seeds, np.uint32))
        captions = [] if labels is None else sources.captions(config, np.asarray(labels))
        weights = state.describe_weights(shown)
        reporter.images(n, "samples", samples, config.data.levels, weights, captions)
        measured.pictured = True

    def measure(measured: Measured, n: int, last: bool, train_state: state.TrainState) -> None:
        if heldout and (last or n % every.every == 0):
            compute_loss(measured, n, train_state)
        if metrics and (last or n % every.quality_every == 0):
            compute_metrics(measured, n, train_state)
        if config.report.samples_every and (last or reports.is_drawn(n, config.report.samples_every)):
            draw_grid(measured, n, train_state)

    return measure


def heldout_loss(
    config: ConfigDict, experiment: wiring.Experiment, heldout: Source
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
        total, key = None, setup.keys(config)[2]
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


def if_finite(n: int, function: Any, *arguments: Any) -> Any:
    """Return function(*arguments), or None if samples are not finite.

    A warning is then logged. Samples may be not finite before a roll-back.
    """
    try:
        return function(*arguments)
    except FloatingPointError as error:
        log.warning("step %d: %s", n, error)
        return None
