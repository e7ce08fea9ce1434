"""Training loop: check, resume, then step, report, save, evaluate, draw."""

import contextlib
import errno
import logging
import signal as signals
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import averages, devices, files, progress
from diffusion_jax import config as configs
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import drawing, optimizers, quality, sources, wiring
from diffusion_jax.metrics import monitor
from diffusion_jax.runs import metric_log, plots, record, weights_and_biases
from diffusion_jax.training import autoencoders, checkpoints, state, step
from diffusion_jax.training.workdir import lock

log = logging.getLogger(__name__)

ORDERS_APART = 1_000_003
"""Increment of the data's seed at each roll-back."""

LAGGING = 0.01
"""Share of initial weights in an average above which its losses and samples come with a warning."""
FIGURES = ("curves.png", "loss_by_time.png")
"""Files of `draw_losses`."""
RAW_LOSS = "heldout_loss_raw"
"""Metric: the held-out loss of the raw weights, where `heldout_loss` uses an average."""


class Diverged(FloatingPointError):
    """Training diverged: too many updates in a row were not finite. No roll-back is left."""

    exit_code = 3


class Preempted(Exception):
    """A signal ended the run, which is saved; the same command continues it."""

    def __init__(self, workdir: str, step: int, number: int) -> None:
        super().__init__(f"{workdir} is saved at step {step}; the same command continues the run")
        self.exit_code = 130 if number == signals.SIGINT else 75  # of Ctrl-C, or EX_TEMPFAIL of sysexits.h


def train(config: ConfigDict, workdir: str, verify: bool = True) -> dict[str, Any]:
    """Train until config.train_steps, from the newest checkpoint of the workdir if there is one.

    The names of a config may be objects (`experiment.choices.Instance`), so that nothing here needs a file. verify:
    compare a checkpoint with its checksums before it is read.

    Returns {"workdir", "step", "loss", …} as last measured. Raises ValueError or OSError, before anything compiles,
    where the config does not fit its data, the devices or the run in the workdir, or another process trains there;
    `Diverged`; `Preempted` after SIGTERM or SIGINT, once the run is saved.
    """
    try:
        with contextlib.ExitStack() as stack:
            return _train(config, workdir, verify, stack)
    except (OSError, ValueError) as error:
        if not no_space(error):
            raise
        kept = checkpoints.steps(workdir)
        where = f"step {kept[-1]}" if kept else "the start"
        raise OSError(
            f"--workdir={workdir}: no space is left on the disk. Free some, or lower checkpoint.keep; the same command "
            f"goes on from {where}"
        ) from error


def no_space(error: OSError | ValueError) -> bool:
    """Return True for a full disk or quota. The error comes from the system or TensorStore (RESOURCE_EXHAUSTED)."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or ("RESOURCE_EXHAUSTED" in str(error) and "writ" in str(error))


def _train(config: ConfigDict, workdir: str, verify: bool, stack: contextlib.ExitStack) -> dict[str, Any]:
    # Checks.
    check_places(workdir, config.report)
    weights_and_biases.check(config.report.wandb)
    train_source, heldout = sources.source(config, "train"), None
    kept = checkpoints.steps(workdir)
    stored = checkpoints.read_config(workdir, verify=verify) if kept else {}
    config = optimizers.fill_in(sources.resolve(config, train_source), stored)
    config = autoencoders.attach(config, workdir if kept else "", train_source, verify)
    experiment = wiring.build(config)
    quality.check_evaluation(config)
    devices.check(config.batch_size, config.accumulate_steps, config.parallel, config.require_accelerator)
    pipeline.check(train_source, config.seed, 0, config.batch_size, config.data.flip)
    if kept:
        config = sources.with_heldout(config, stored["data"].get("heldout_fingerprint", ""))
    if config.eval.every:
        heldout = sources.source(config, "heldout")
        config = sources.with_heldout(config, sources.fingerprint(heldout))
    if config.report.samples_every and len(config.data.shape) not in (1, 3):
        raise ValueError(
            f"report.samples_every={config.report.samples_every}: examples of shape {tuple(config.data.shape)} are no "
            "pictures. Set it to 0"
        )
    draw = drawing.quick_samples(config) if config.report.samples_every else None
    if config.eval.quality_every:
        quality.check_monitor(config)
    key_init, key_train, key_eval = keys(config)
    shapes = jax.eval_shape(lambda: state.initial(config, experiment, key_init))
    if kept:
        configs.check_resume(stored, config)
        if kept[-1] >= config.train_steps:
            log.info("%s is finished: step %d of %d", workdir, kept[-1], config.train_steps)
            return {"workdir": workdir, "step": kept[-1], "loss": metric_log.last(workdir, "loss"), "finished": True}
    else:
        sources.check(config, train_source)
        sources.check_workdir(config, workdir)
    optimizers.check_decay(config)
    if devices.is_first():
        stack.enter_context(lock(workdir))
        if checkpoints.steps(workdir) != kept:
            raise ValueError(
                f"--workdir={workdir}: another process saved a checkpoint while this one started. Run the same command "
                "again, which goes on from there"
            )
    if config.latent.workdir and not kept and devices.is_first():
        autoencoders.write(files.place_of(workdir) / autoencoders.FILE, config)
    manager = checkpoints.open_manager(workdir, config.checkpoint.keep, config.checkpoint.keep_every)
    notice = stack.enter_context(devices.preemption())
    stack.callback(manager.close)

    # The state, and the compiled functions.
    log.info("%s", metric_log.banner(shapes.params, jax.devices(), workdir))
    log.info("%s", sources.summary(train_source, heldout))
    shown = state.first_average(config)
    if lagging := lag(config, shown, config.train_steps):
        log.warning("at the end of this run, %s", lagging)
    if kept:
        log.info("resuming %s at step %d", workdir, kept[-1])
        train_state = checkpoints.restore(manager, devices.abstract(shapes, config.parallel), verify=verify)
    else:
        train_state = initial_state(config, experiment, key_init, shapes)
    train_step = training_step(config, experiment, shapes)
    evaluate = heldout_loss(config, experiment, heldout, key_eval) if heldout and config.eval.every else None
    measure_quality = None
    if config.eval.quality_every:
        measure_quality = quality.make_monitor(config, drawing.quick_samples(config))

    # The run.
    n = first = int(train_state.step)
    rollbacks = checkpoints.read_rollbacks(workdir, verify=verify) if kept else 0
    batches = device_batches(config, train_source, n, rollbacks)
    stack.callback(lambda: batches.close())
    session = stack.enter_context(record.recording(workdir, n))
    in_use, report_to = configs.in_use(configs.plain(config)), config.report
    reporter = metric_log.open_reporter(workdir, report_to.tensorboard, in_use, report_to.wandb)
    stack.callback(reporter.close)
    report = stack.enter_context(progress.track("step", config.train_steps, n, seconds=0))
    stored = configs.plain(config)
    rate = optimizers.evaluated(experiment.learning_rate)
    results: dict[str, Any] = {}
    window: list[dict[str, jax.Array]] = []
    started = time.perf_counter()

    measured: float | None = None
    aim: float | None = None

    def save() -> None:
        checkpoints.save(manager, n, train_state, stored, measured, aim, rollbacks)
        if devices.is_first():
            draw_losses(workdir, shown)

    def rescue() -> bool:
        """Save the sound state after a failure, and return whether it is saved.

        A checkpoint is written by all processes together, so a process that fails alone cannot save.
        """
        if jax.process_count() > 1:
            kept = checkpoints.steps(workdir)
            log.error("not saved after a failure; the same command goes on from step %d", kept[-1] if kept else 0)
            return False
        save()
        manager.wait_until_finished()
        return True

    @contextlib.contextmanager
    def saving_on_failure() -> Iterator[None]:
        """Rescue the state on a failure or a signal. A failure is an error of a log, an evaluation or a picture."""
        try:
            notice.raising = True
            yield
            notice.raising = False
        except BaseException as error:
            notice.raising = False
            if rescue():
                if isinstance(error, KeyboardInterrupt) and (number := notice(n)):
                    raise Preempted(workdir, n, number) from None
                log.error("step %d is saved; what follows ended the run", n)
            raise

    log.info("compiling the train step")
    while n < config.train_steps:
        n += 1
        try:
            batch = next(batches)
        except Exception:  # of the data: the steps so far are sound
            n -= 1
            if n > first and rescue():
                log.error("the data failed after step %d, which is saved", n)
            raise
        train_state, metrics = train_step(train_state, batch, train_key(key_train, rollbacks))
        window.append(metrics)
        session.step = n
        last = n == config.train_steps
        measured = aim = pictured = None

        if last or n == first + 1 or n % config.report.every == 0:
            means = summary(jax.device_get(window))
            if n > first + 1:  # the first step has compiled
                seconds = (time.perf_counter() - started) / len(window)
                means["images_per_second"] = config.batch_size / seconds
            else:
                log.info("compiled; the first step took %s", progress.duration(time.perf_counter() - started))
            means["learning_rate"] = rate(n - 1 - int(means["skipped"]))
            report(n, **{name: means[name] for name in ("loss", "images_per_second") if name in means})
            with saving_on_failure():
                reporter.scalars(n, means)
            if means["skipped"] > 0:
                log.warning("%d updates so far were not finite and have been skipped", means["skipped"])
            results |= {"loss": means["loss"]}
            window, started = [], time.perf_counter()
            if train_state.skipped[1] >= config.guard.most_skipped:
                manager.wait_until_finished()
                before = n - int(train_state.skipped[1])
                good = max((k for k in checkpoints.steps(workdir) if k <= before), default=None)
                where = divergence(n, before, good, evaluate(state.weights(train_state, shown)) if evaluate else {})
                if good is None or rollbacks >= config.guard.rollbacks:
                    raise Diverged(f"{workdir}: {where}")
                rollbacks += 1
                log.warning("%s; going back to step %d, with the data in another order", where, good)
                checkpoints.forget_after(manager, good)
                train_state = checkpoints.restore(manager, devices.abstract(shapes, config.parallel), good, verify)
                batches.close()
                n, batches = good, device_batches(config, train_source, good, rollbacks)
                continue

        if number := notice(n):
            save()
            manager.wait_until_finished()
            raise Preempted(workdir, n, number)
        paused = time.perf_counter()
        with saving_on_failure():
            if evaluate and (last or n % config.eval.every == 0):
                losses = evaluate(state.weights(train_state, shown))
                measured = losses["heldout_loss"]
                if shown != state.RAW:
                    losses[RAW_LOSS] = evaluate(train_state.params)["heldout_loss"]
                reporter.scalars(n, losses)
                log.info("step %d: held-out loss %s", n, heldout_text(losses, shown))
                results |= {name: losses[name] for name in ("heldout_loss", RAW_LOSS) if name in losses}
            figures = None
            if measure_quality and (last or n % config.eval.quality_every == 0):
                figures = if_finite(n, measure_quality, state.weights(train_state, shown))
            if figures:
                reporter.scalars(n, figures)
                listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                log.info("step %d: %s (%s)", n, listed, state.describe_weights(shown))
                results |= figures
                if config.checkpoint.best != "heldout_loss":
                    aim = monitor.objective(config.checkpoint.best, figures)
            if draw and (last or is_drawn(n, config.report.samples_every)):
                seeds = np.arange(config.report.num_samples)
                pictured = if_finite(n, draw, state.weights(train_state, shown), seeds)
                if pictured is not None:
                    labels = experiment.sampler.labels(jax.numpy.asarray(seeds, np.uint32))
                    captions = [] if labels is None else sources.captions(config, np.asarray(labels))
                    weights = state.describe_weights(shown)
                    reporter.images(n, "samples", pictured, config.data.levels, weights, captions)
        if (measured is not None or pictured is not None) and (
            lagging := lag(config, shown, n - int(train_state.skipped[0]))
        ):
            log.warning("%s", lagging)
        if last or n % config.checkpoint.every == 0:
            save()
        started += time.perf_counter() - paused
    return {"workdir": workdir, "step": config.train_steps, **results}


def check_places(workdir: str, report: ConfigDict) -> None:
    """Check that a run can write its files. Raises ValueError or PermissionError, naming what is in the way."""
    name, directory = f"--workdir={workdir}: ", files.place_of(workdir)
    logs = [name for name in ("tensorboard", weights_and_biases.FOLDER) if report[name]]
    for folder in ("checkpoints", "images", *logs):
        files.check_folder(directory / folder, name)
    for file in (metric_log.METRICS, record.RECORD):
        files.check_file(directory / file, name, appended=True)
    for file in FIGURES:
        files.check_file(directory / file, name)


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


def train_key(key: jax.Array, rollbacks: int) -> jax.Array:
    """Return the key of training, another one after each roll-back."""
    return jax.random.fold_in(key, rollbacks) if rollbacks else key


def divergence(n: int, before: int, good: int | None, losses: dict[str, float]) -> str:
    """Return the text of `Diverged`; `before`: the last finite step, `good`: the last checkpoint until then."""
    bins = ", ".join(f"{value:.4g}" for name, value in sorted(losses.items()) if "_bin_" in name)
    return (
        f"the {n - before} updates of steps {before + 1} to {n} were not finite (held-out loss by tenths of t: "
        f"{bins or 'not measured'}; last good checkpoint: {'none' if good is None else f'step {good}'}). Lower "
        "optimizer.learning_rate or choose another loss, in another --workdir, or allow guard.rollbacks"
    )


def keys(config: ConfigDict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the keys of a run: initial parameters, training, evaluation."""
    key_init, key_train, key_eval = jax.random.split(jax.random.key(config.seed), 3)
    return key_init, key_train, key_eval


def summary(window: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means of metrics over steps. If possible, over the steps with a finite update."""
    values = {name: np.array([metrics[name] for metrics in window]) for name in window[0]}
    finite = np.isfinite(values["loss"]) & np.isfinite(values["grad_norm"])
    means = {name: float(of_steps[finite if finite.any() else slice(None)].mean()) for name, of_steps in values.items()}
    return means | {"skipped": float(values["skipped"][-1])}


def draw_losses(workdir: str, name: str) -> None:
    """Draw the losses into workdir/curves.png, and by time into loss_by_time.png. name: of the weights behind them."""
    path, records = files.place_of(workdir).resolve(), metric_log.read_metrics(workdir)
    plots.losses(path / FIGURES[0], records, path.name, state.describe_weights(name))
    if any(name.startswith("heldout_loss_bin_") for record in records for name in record):
        plots.loss_by_time(path / FIGURES[1], records, path.name, step.BINS)


def if_finite(n: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return function(*arguments), or None if samples are not finite.

    A warning is then logged. Samples may be not finite before a roll-back.
    """
    try:
        return function(*arguments)
    except FloatingPointError as error:
        log.warning("step %d: %s", n, error)
        return None


def lag(config: ConfigDict, name: str, updates: int) -> str:
    """Return a warning about an average that lags behind the weights, else "".

    The warning is given while the average holds more than LAGGING of the initial weights.
    """
    if name == state.RAW or ":" in name or updates < 2:  # after one update an average is a copy
        return ""
    share = averages.initial_share(float(name), updates, config.ema.ramp)
    if share <= LAGGING:
        return ""
    return (
        f"{state.describe_weights(name)}: {100 * share:.0f} % of this average are initial weights after {updates:,} "
        "updates, so that its losses and samples lag behind. Look at the raw weights (--ema=none), or train with "
        "ema.ramp=0.05 or a smaller decay in ema.decays"
    )


def heldout_text(losses: Mapping[str, float], name: str) -> str:
    """Return held-out losses as text, each with its weights."""
    text = f"{losses['heldout_loss']:.5f} ({state.describe_weights(name)})"
    return text + (f", {losses[RAW_LOSS]:.5f} (raw weights)" if RAW_LOSS in losses else "")


def is_drawn(n: int, every: int) -> bool:
    """Return True if samples are drawn after step n. At 1 % and 10 % of `every`, then every `every` steps."""
    return n % every == 0 or n in (every // 100, every // 10)


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
