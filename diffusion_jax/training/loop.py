"""Training loop: check, resume, then step, report, save, evaluate, draw."""

import contextlib
import errno
import logging
import signal as signals
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import devices, files, progress
from diffusion_jax.experiment import optimizers, sources
from diffusion_jax.runs import metric_log, record, weights_and_biases
from diffusion_jax.training import autoencoders, checkpoints, evaluations, reports, setup, state
from diffusion_jax.training.workdir import lock

log = logging.getLogger(__name__)


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
    kept = checkpoints.steps(workdir)
    stored = checkpoints.read_config(workdir, verify=verify) if kept else {}
    parts = setup.prepare(config, workdir, stored, verify)
    config, experiment, shapes = parts.config, parts.experiment, parts.shapes
    if kept:
        configs.check_resume(stored, config)
        if kept[-1] >= config.train_steps:
            log.info("%s is finished: step %d of %d", workdir, kept[-1], config.train_steps)
            return {"workdir": workdir, "step": kept[-1], "loss": metric_log.last(workdir, "loss"), "finished": True}
    else:
        sources.check(config, parts.source)
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
    log.info("%s", sources.summary(parts.source, parts.heldout))
    shown = state.first_average(config)
    if lagging := reports.lag(config, shown, config.train_steps):
        log.warning("at the end of this run, %s", lagging)
    if kept:
        log.info("resuming %s at step %d", workdir, kept[-1])
        train_state = checkpoints.restore(manager, devices.abstract(shapes, config.parallel), verify=verify)
    else:
        train_state = setup.initial_state(config, experiment, shapes)
    train_step = setup.training_step(config, experiment, shapes)
    heldout = evaluations.heldout_loss(config, experiment, parts.heldout) if parts.heldout else None

    # The run.
    n = first = int(train_state.step)
    rollbacks = checkpoints.read_rollbacks(workdir, verify=verify) if kept else 0
    batches, key = setup.device_batches(config, parts.source, n, rollbacks), setup.train_key(config, rollbacks)
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
    measure = evaluations.make(parts, shown, heldout, reporter)
    measured, started = evaluations.Measured(), time.perf_counter()

    def save() -> None:
        checkpoints.save(manager, n, train_state, stored, measured.heldout_loss, measured.aim, rollbacks)
        if devices.is_first():
            reports.draw_losses(workdir, shown)

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
        train_state, metrics = train_step(train_state, batch, key)
        window.append(metrics)
        session.step = n
        last = n == config.train_steps
        measured = evaluations.Measured()

        if last or n == first + 1 or n % config.report.every == 0:
            means = reports.summary(jax.device_get(window))
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
                where = reports.divergence(
                    n, before, good, heldout(state.weights(train_state, shown)) if heldout else {}
                )
                if good is None or rollbacks >= config.guard.rollbacks:
                    raise Diverged(f"{workdir}: {where}")
                rollbacks += 1
                log.warning("%s; going back to step %d, with the data in another order", where, good)
                checkpoints.forget_after(manager, good)
                train_state = checkpoints.restore(manager, devices.abstract(shapes, config.parallel), good, verify)
                batches.close()
                n, key = good, setup.train_key(config, rollbacks)
                batches = setup.device_batches(config, parts.source, n, rollbacks)
                continue

        if number := notice(n):
            save()
            manager.wait_until_finished()
            raise Preempted(workdir, n, number)
        paused = time.perf_counter()
        with saving_on_failure():
            measure(measured, n, last, train_state)
        results |= measured.results
        if (measured.heldout_loss is not None or measured.pictured) and (
            lagging := reports.lag(config, shown, n - int(train_state.skipped[0]))
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
    for file in reports.FIGURES:
        files.check_file(directory / file, name)
