"""Train and evaluate a grid of configs, described by one file.

Each cell and seed has a work directory of its own.

A sweep file holds `get_sweep(variant="") -> dict`, plain data:

    config    the recipe that all cells start from, e.g. "configs/digits.py"
    seeds     (0, 1, 2)
    flags     {"train_steps": 1000, …}: config keys that all cells share
    cells     {"name": {"loss.name": "simple", …}, …}: the config keys of each cell; "config" and "evaluate" among
              them replace the keys of the sweep
    evaluate  ("--num_samples=500", …): flags of `main evaluate`
    note      a sentence printed above the table

    DIR/sweep.json                      the grid, every flag written out
        CELL/seedK/                     the work directory of a training run
                   train.log, evaluate.log, result.json
        compare.md, compare.csv         written by `main compare` (comparison.py)

A run consists of two child processes, `main train` and `main evaluate`. So a run that is killed, also for its memory,
leaves the sweep alive, and every run can be repeated by hand.
"""

import concurrent.futures
import difflib
import json
import logging
import math
import multiprocessing
import os
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from diffusion_jax import __version__, files, progress
from diffusion_jax import config as configs
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.experiment.objectives import loss_facts
from diffusion_jax.runs import metric_log
from diffusion_jax.training import autoencoders, checkpoints, loop

log = logging.getLogger(__name__)

KEYS = ("config", "seeds", "flags", "cells", "evaluate", "note")
GRID, RESULT = "sweep.json", "result.json"
FINISHED, DIVERGED, FAILED = STATUSES = ("finished", "diverged", "failed")
"""The status of a run, in result.json. A failed run is tried again."""

CheckFlags = Callable[[Sequence[str], ConfigDict], None]
"""`check(flags, config)` raises ValueError if the flags cannot evaluate a run with this config. It can be pickled."""


class CellRun(NamedTuple):
    """A cell at one seed: the flags of its two commands, without --workdir."""

    name: str
    """CELL/seedK, also its place below the work directory of the sweep."""
    train: tuple[str, ...]
    evaluate: tuple[str, ...]


class Outcome(NamedTuple):
    """Outcome of a command."""

    code: int
    """Its exit code; negative: the signal that killed it."""
    results: dict[str, Any]
    """The JSON object that it printed, if it succeeded."""
    message: str
    """The reason of a failure, for people; "" after success."""


# The grid.


def load(file: str) -> dict[str, Any]:
    """Return the sweep that FILE or FILE:VARIANT describes. Raises ValueError if the file is wrong."""
    path, variant = configs.find(file, "sweeps")
    try:
        names = runpy.run_path(str(path))
        if "get_sweep" not in names:
            raise ValueError("no function get_sweep(variant)")
        described = names["get_sweep"](variant)
    except Exception as error:  # the file may hold any Python
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--sweep={file}: cannot be read ({kind}{error})") from error
    for key in described:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"--sweep={file}: unknown key {key!r}.{hint} Known: {', '.join(KEYS)}")
    for key in ("config", "seeds", "cells"):
        if not described.get(key):
            raise ValueError(f"--sweep={file}: {key!r} is missing or empty")
    seeds = described["seeds"]
    if not isinstance(seeds, range | list | tuple) or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"--sweep={file}: 'seeds' must be a list of whole numbers, such as (0, 1, 2) (got {seeds!r})")
    for name in described["cells"]:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"--sweep={file}: cell {name!r} is no name of a folder. Use letters, digits, '.', '_' and '-'"
            )
    return described


def grid(described: Mapping[str, Any]) -> list[CellRun]:
    """Return the runs of a sweep: every cell at every seed, cell by cell."""
    runs = []
    for cell in described["cells"]:
        recipe, keys, evaluate = parts_of(described, cell)
        flags = tuple(f"--config.{key}={value}" for key, value in keys.items())
        for seed in described["seeds"]:
            train = (f"--config={recipe}", *flags, f"--config.seed={seed}")
            runs.append(CellRun(f"{cell}/seed{seed}", train, evaluate))
    return runs


def parts_of(described: Mapping[str, Any], cell: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return (recipe, config keys, flags of `main evaluate`) of a cell."""
    own = dict(described["cells"][cell])
    recipe = own.pop("config", described["config"])
    evaluate = own.pop("evaluate", described.get("evaluate", ()))
    return recipe, {**described.get("flags", {}), **own}, tuple(evaluate)


def config_of(run: CellRun) -> ConfigDict:
    """Return the config that a run trains."""
    recipe, *overrides = run.train
    config = configs.load(recipe.removeprefix("--config="))
    pairs = (word.removeprefix("--config.").split("=", 1) for word in overrides)
    configs.override_all(config, {key: value for key, value in pairs}, idle=tuple(config))
    return config


def check(described: Mapping[str, Any], check_flags: CheckFlags | None = None, data: bool = True) -> None:
    """Raise ValueError unless the keys of each cell make a config.

    The error has the cell's name. check_flags: checks the flags of `main evaluate` as well. data: also open the data,
    each set once. Without, a config that does not hold its data's shape is not built.
    """
    opened: dict[str, Any] = {}
    for cell in described["cells"]:
        recipe, keys, evaluate = parts_of(described, cell)
        try:
            config = configs.load(recipe)
            configs.override_all(config, {key: str(value) for key, value in keys.items()}, idle=tuple(config))
            if data:
                section = config.data.to_json_best_effort()
                if section not in opened:
                    opened[section] = sources.source(config, "train")
                config = autoencoders.attach(sources.resolve(config, opened[section]))
            if config.data.shape and (data or not config.latent.workdir):
                wiring.parameters(config, wiring.build(config).network)
            if check_flags:
                check_flags(evaluate, config)
        except (ValueError, OSError) as error:
            raise ValueError(f"cell {cell!r}: {' '.join(str(error).split())}") from error


def check_on_cpu(described: Mapping[str, Any], check_flags: CheckFlags | None = None) -> None:
    """`check` without touching the accelerators, which the runs need.

    If there are any, a separate process does the checks.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return check(described, check_flags)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=_use_cpu) as pool:
        return pool.submit(check, described, check_flags).result()


def _use_cpu() -> None:
    jax.config.update("jax_platforms", "cpu")


def stored(directory: pathlib.Path, name: str = GRID) -> dict[str, Any]:
    """Read sweep.json or result.json of a directory. Raises ValueError if it does not exist or cannot be read."""
    path = directory / name
    if not path.is_file():
        raise ValueError(f"{directory}: not the directory of a sweep ({name} is missing). See main sweep --help")
    return files.read_json(path)


def result_of(directory: pathlib.Path, name: str) -> dict[str, Any]:
    """Read the result.json of a run; {} if the run has not ended."""
    place = directory / name
    return stored(place, RESULT) if (place / RESULT).exists() else {}


def check_stored(directory: pathlib.Path, runs: list[CellRun]) -> None:
    """Raise ValueError unless the directory is new or holds a part of this sweep."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--workdir={directory}: is a file. Use another --workdir")
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not (directory / GRID).exists():
        raise ValueError(f"--workdir={directory}: not empty, and without {GRID}. Use another --workdir")
    before = stored(directory)
    if before.get("version") != __version__:
        raise ValueError(
            f"{directory / GRID}: from diffusion_jax {before.get('version')}, this is {__version__}. Use another "
            "--workdir, so that all cells come from one version"
        )
    now = {run.name: run for run in runs}
    for name, flags in before["runs"].items():
        if name not in now:
            raise ValueError(f"{directory / GRID}: holds {name}, which this sweep does not. Use another --workdir")
        for command in ("train", "evaluate"):
            then, new = set(flags[command]), set(getattr(now[name], command))
            if then != new and (command == "train" or result_of(directory, name).get("status") in (FINISHED, DIVERGED)):
                old, given = (" ".join(sorted(group)) or "nothing" for group in (then - new, new - then))
                raise ValueError(f"{name}: other flags of {command} (got {given}; stored {old}). Use another --workdir")
        result_of(directory, name)


# Running it.


def run_sweep(file: str, workdir: str, check_flags: CheckFlags | None = None) -> dict[str, Any]:
    """Carry out the missing runs of a sweep, one by one.

    Returns how many runs have each status. A run that finished or diverged is skipped, a failed one is tried again, an
    interrupted one resumes. Raises ValueError or OSError, before anything runs, if the file, a cell or the work
    directory is wrong.
    """
    directory, runs = begin(file, workdir, check_flags)
    env = environment(directory)
    counts = dict.fromkeys(STATUSES, 0)
    missing = []
    for run in runs:
        status = result_of(directory, run.name).get("status")
        if status in (FINISHED, DIVERGED):
            log.info("%s: %s before", run.name, status)
            counts[status] += 1
        else:
            missing.append(run)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the child as well
    try:
        with progress.track("runs", len(missing), seconds=0) as report:
            for i, run in enumerate(missing, 1):
                result = carry_out(run, directory / run.name, env, result_of(directory, run.name))
                try:
                    files.save_json(directory / run.name / RESULT, result)
                except OSError as error:  # no reason to end the other runs
                    log.error("%s: its result cannot be written (%s)", run.name, error)
                counts[result["status"]] += 1
                log.info("%s: %s", run.name, ": ".join(filter(None, (result["status"], result["reason"]))))
                report(i)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return {"workdir": str(directory), "runs": len(runs), **counts}


def begin(file: str, workdir: str, check_flags: CheckFlags | None = None) -> tuple[pathlib.Path, list[CellRun]]:
    """Check a sweep and its work directory, and write sweep.json.

    Returns the directory and all runs. Raises as `run_sweep` does.
    """
    directory = pathlib.Path(files.expand(workdir))
    described = load(file)
    runs = grid(described)
    files.check_file(directory / GRID, f"--workdir={workdir}: ")
    for run in runs:
        files.check_file(directory / run.name / RESULT, f"--workdir={workdir}: ")
    check_stored(directory, runs)
    check_on_cpu(described, check_flags)
    directory.mkdir(parents=True, exist_ok=True)
    header = {"sweep": file, "version": __version__, "note": described.get("note", "")}
    flags = {run.name: {"train": run.train, "evaluate": run.evaluate} for run in runs}
    files.save_json(directory / GRID, header | {"runs": flags})
    return directory, runs


def environment(directory: pathlib.Path) -> dict[str, str]:
    """Return the environment of the child processes.

    It is this process's, with a cache of compiled programs that all runs share.
    """
    shared = {
        "JAX_COMPILATION_CACHE_DIR": str((directory / ".cache").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return shared | dict(os.environ)


def carry_out(run: CellRun, place: pathlib.Path, env: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, Any]:
    """Train and evaluate a run in its work directory; return the content of result.json.

    before: the earlier content of result.json, or {}. train_seconds and evaluate_seconds are the wall-clock times of
    the two commands, compilation included; train_seconds is None for a training that was interrupted and resumed, as
    the time of its first part is not known. Errors are not raised but stored as status and reason, so that the sweep
    continues with the next run.
    """
    result: dict[str, Any] = {"status": FAILED, "reason": "", "figures": {}, "version": __version__, **run._asdict()}
    try:
        return _train_and_evaluate(run, place, env, before, result)
    except Exception as error:
        log.exception("%s: a fault of the sweep, not of its commands", run.name)
        return result | {"status": FAILED, "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def trained_words(run: CellRun) -> list[str]:
    """Return the words of `train` for a cell that have an effect in it.

    The cells of a sweep share their flags, and `train` refuses those without effect.
    """
    config = config_of(run)
    idle = dict(configs.flatten(config)).keys() - configs.in_use(config).keys()
    return [word for word in run.train if word.partition("=")[0].removeprefix("--config.") not in idle]


def _train_and_evaluate(
    run: CellRun, place: pathlib.Path, env: Mapping[str, str], before: Mapping[str, Any], result: dict[str, Any]
) -> dict[str, Any]:
    place.mkdir(parents=True, exist_ok=True)
    fresh, game = not checkpoints.steps(place), loss_facts(config_of(run)).adversarial
    for command in ("train", "evaluate"):
        flags = trained_words(run) if command == "train" else getattr(run, command)
        argv = [sys.executable, "-m", "diffusion_jax.main", command, f"--workdir={place}", *flags]
        log.info("%s", shlex.join(argv))
        started = time.perf_counter()
        outcome = execute(argv, place / f"{command}.log", env)
        seconds: float | None = round(time.perf_counter() - started, 1)
        if outcome.code:
            status = DIVERGED if outcome.code == loop.Diverged.exit_code else FAILED
            return result | {"status": status, "reason": f"{command}: {outcome.message}"}
        if command == "train" and not fresh:
            seconds = before.get("train_seconds") if outcome.results.get("finished") else None
        result[f"{command}_seconds"] = seconds
        result["figures"] |= {name: value for name, value in outcome.results.items() if _is_figure(value)}
    result["steps"] = result["figures"].pop("step", None)
    reason = divergence(place, result["figures"], game=game)
    return result | {"status": DIVERGED if reason else FINISHED, "reason": reason}


def _is_figure(value: Any) -> bool:
    value = files.number(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def execute(argv: list[str], path: pathlib.Path, env: Mapping[str, str]) -> Outcome:
    """Run a command, with its output appended to a log."""
    with open(path, "a+") as file:
        file.write(f"{shlex.join(argv)}\n")
        file.flush()
        start = file.tell()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, env=env, text=True)
        file.seek(0, os.SEEK_END)
        file.write(done.stdout)
        file.seek(start)
        lines = [line.strip() for line in file if line.strip()]
    if not done.returncode:
        try:
            return Outcome(0, dict(json.loads(done.stdout.splitlines()[-1])), "")
        except (ValueError, TypeError, IndexError):
            return Outcome(1, {}, f"its last line is no JSON object; see {path}")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Outcome(done.returncode, {}, f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else ""))
    # The line that the command line prints for an error, or the last line of a traceback.
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
    return Outcome(done.returncode, {}, errors[-1] if errors else f"exit code {done.returncode}; see {path}")


def divergence(workdir: pathlib.Path, figures: Mapping[str, Any], game: bool = False) -> str:
    """Return the reason why a run that reached its end counts as diverged, or "".

    A run has diverged if any figure or training loss is not finite, if a tenth or more of the updates were skipped
    because they were not finite, or if the last held-out loss lies above the first. game: True for a GAN, whose
    held-out loss may rise.
    """
    for name, value in figures.items():
        if not math.isfinite(files.number(value)) and not name.endswith("_stderr"):  # one example has no standard error
            return f"{name} is {value}"
    try:
        records = metric_log.read_metrics(workdir)
    except FileNotFoundError:
        return ""
    for record in records:
        if not math.isfinite(record.get("loss", 0.0)):
            return f"the training loss was {record['loss']} at step {record['step']}"
    skipped = next((record["skipped"] for record in reversed(records) if "skipped" in record), 0.0)
    if records and skipped >= 0.1 * records[-1]["step"]:
        return f"{skipped:.0f} of {records[-1]['step']} updates were not finite"
    heldout = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    rose = bool(heldout) and not (math.isfinite(heldout[-1]) if game else heldout[-1] <= heldout[0])
    if rose:
        return f"the held-out loss rose from {heldout[0]:.4g} to {heldout[-1]:.4g}"
    return ""
