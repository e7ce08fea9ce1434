"""A grid of runs from one file: each cell and seed is a workdir of its own, trained and evaluated by the command line.

A sweep file holds `get_sweep(variant="") -> dict`, plain data:

    config    the recipe that all cells start from, e.g. "configs/digits.py"
    seeds     (0, 1, 2)
    flags     {"train_steps": 1000, …}: config keys that all cells share
    cells     {"name": {"loss.name": "simple", …}, …}: the keys of each cell
    evaluate  ("--num_samples=500", …): flags of `main evaluate`
    note      what the figures are to be read beside

    DIR/sweep.json                      the grid, every flag written out
        CELL/seedK/                     the workdir of a training run
                   train.log, evaluate.log, result.json
        compare.md, compare.csv         written by `main compare` (comparison.py)

A cell runs as two processes of our own, so that one that dies, killed for its memory even, leaves the sweep alive, and
any cell can be repeated by hand.
"""

import difflib
import json
import logging
import math
import os
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from diffusion_jax import __version__, arguments, files, progress
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.runs import metric_log
from diffusion_jax.training import checkpoints

log = logging.getLogger(__name__)

KEYS = ("config", "seeds", "flags", "cells", "evaluate", "note")
GRID, RESULT = "sweep.json", "result.json"
ERROR_LINE = re.compile(r"error: (.+)|((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*)")
"""How a process of ours says why it ends: one line of bad input, or the last line of a traceback."""


GAVE_UP = "were not finite"
"""Said by a training run that gives up because its updates are not finite."""


class Run(NamedTuple):
    """A cell at one seed: the flags of its two commands, without --workdir."""

    name: str
    """CELL/seedK, also its place below the workdir of the sweep."""
    train: tuple[str, ...]
    evaluate: tuple[str, ...]


# The grid.


def load(file: str) -> dict[str, Any]:
    """The sweep that FILE or FILE:VARIANT describes. Raises ValueError for whatever is wrong with it."""
    path, _, variant = file.partition(":")
    if not pathlib.Path(path).is_file():
        raise ValueError(f"--sweep={file}: there is no file {path}")
    arguments.make_importable(path)
    try:
        names = runpy.run_path(path)
        if "get_sweep" not in names:
            raise ValueError("it has no function get_sweep(variant)")
        described = names["get_sweep"](variant)
    except Exception as error:  # whatever Python the file holds
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--sweep={file} cannot be read: {kind}{error}") from error
    for key in described:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"--sweep={file}: {key!r} is not a key of a sweep{hint}; use {', '.join(KEYS)}")
    for key in ("config", "seeds", "cells"):
        if not described.get(key):
            raise ValueError(f"--sweep={file}: {key!r} is missing or empty")
    for name in described["cells"]:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"--sweep={file}: cell {name!r} cannot be a folder; use letters, digits, '.', '_' and '-'")
    return described


def grid(described: Mapping[str, Any]) -> list[Run]:
    """Every cell at every seed, a whole cell at a time."""
    evaluate = tuple(described.get("evaluate", ()))
    runs = []
    for cell, keys in described["cells"].items():
        overrides = {**described.get("flags", {}), **keys}
        flags = tuple(f"--config.{key}={value}" for key, value in overrides.items())
        for seed in described["seeds"]:
            train = (f"--config={described['config']}", *flags, f"--config.seed={seed}")
            runs.append(Run(f"{cell}/seed{seed}", train, evaluate))
    return runs


def check(described: Mapping[str, Any], data: bool = True) -> None:
    """Raise ValueError, naming the cell, if the flags of any cell are not those of a config that can be built.

    data: also open the data, each set once. Without, configs that do not say their shape are not built.
    """
    opened: dict[str, Any] = {}
    checked = set()
    for run in grid(described):
        cell = run.name.split("/")[0]
        if cell in checked:
            continue
        checked.add(cell)
        try:
            config = arguments.parse(["main", "train", *run.train]).config
            arguments.parse(["main", "evaluate", *run.evaluate], config)
            if data:
                section = config.data.to_json_best_effort()
                if section not in opened:
                    opened[section] = sources.source(config, "train")
                config = sources.resolve(config, opened[section])
            if config.data.shape:
                wiring.parameters(config, wiring.build(config).network)
        except (ValueError, OSError) as error:
            raise ValueError(f"cell {cell!r}: {arguments.one_line(error)}") from error


def stored(directory: pathlib.Path, name: str = GRID) -> dict[str, Any]:
    """sweep.json or result.json of a directory. Raises ValueError if there is none, or none that can be read."""
    path = directory / name
    if not path.is_file():
        raise ValueError(f"{directory} is not the workdir of a sweep: it holds no {name}; see main sweep")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, or restore it from a copy") from error


def check_stored(directory: pathlib.Path, runs: list[Run]) -> None:
    """Raise ValueError unless the directory is new, or holds this grid, or a part of it, from this version."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--workdir={directory} is a file; use another --workdir")
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not (directory / GRID).exists():
        raise ValueError(f"--workdir={directory} holds something else: no {GRID}, and not empty; use another --workdir")
    before = stored(directory)
    if before.get("version") != __version__:
        raise ValueError(
            f"{directory / GRID} is from diffusion_jax {before.get('version')}, this is {__version__}; "
            "use another --workdir, so that all cells come from one version"
        )
    now = {run.name: run for run in runs}
    for name, flags in before["runs"].items():
        if name not in now:
            raise ValueError(f"{directory / GRID} holds {name} and this sweep does not; use another --workdir")
        for command in ("train", "evaluate"):
            then, new = set(flags[command]), set(getattr(now[name], command))
            if then != new:
                was, asked = (" ".join(sorted(group)) or "nothing" for group in (then - new, new - then))
                raise ValueError(f"{name}: stored {was}, asked {asked} ({command}); use another --workdir")
        if (directory / name / RESULT).exists():
            stored(directory / name, RESULT)


# Running it.


def sweep(file: str, workdir: str) -> dict[str, Any]:
    """Run what is left of a sweep, a cell after the other; returns how many runs ended how.

    A run that is done is passed over, one that failed is tried again, one that was interrupted resumes. Raises
    ValueError or OSError, before anything runs, for what is wrong with the file, a cell or the workdir.
    """
    directory, runs = begin(file, workdir)
    env = environment(directory)
    counts = {"finished": 0, "diverged": 0, "failed": 0}
    spent: list[float] = []
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # takes the cell along
    try:
        for i, run in enumerate(runs, 1):
            place = directory / run.name
            before = stored(place, RESULT) if (place / RESULT).exists() else {}
            if before.get("status") in ("finished", "diverged"):
                log.info("%d/%d %s: %s before", i, len(runs), run.name, before["status"])
                counts[before["status"]] += 1
                continue
            started = time.perf_counter()
            result = carry_out(run, place, env, before)
            files.save_json(place / RESULT, result)
            counts[result["status"]] += 1
            spent.append(time.perf_counter() - started)
            left = progress.duration((len(runs) - i) * sum(spent) / len(spent))
            outcome = f"{result['status']}: {result['reason']}" if result["reason"] else result["status"]
            log.info("%d/%d %s: %s, %.0f s; %s left at most", i, len(runs), run.name, outcome, spent[-1], left)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return {"workdir": str(directory), "runs": len(runs), **counts}


def begin(file: str, workdir: str) -> tuple[pathlib.Path, list[Run]]:
    """Check a sweep and its workdir, and write sweep.json; returns (the workdir, all runs). Raises as `sweep` does."""
    directory = pathlib.Path(workdir).expanduser()
    described = load(file)
    runs = grid(described)
    check_stored(directory, runs)
    jax.config.update("jax_platforms", "cpu")  # only checks run in this process: the accelerator is for the cells
    check(described)
    directory.mkdir(parents=True, exist_ok=True)
    flags = {run.name: {"train": run.train, "evaluate": run.evaluate} for run in runs}
    header = {"sweep": file, "version": __version__, "note": described.get("note", "")}
    files.save_json(directory / GRID, header | {"runs": flags})
    return directory, runs


def environment(directory: pathlib.Path) -> dict[str, str]:
    """What the cells find in their environment: ours, and compiled programs that the seeds of a cell share.

    JAX_NUM_CPU_DEVICES is not set for them: two devices on two cores are faster, but on a busy machine the all-reduce
    of XLA's CPU backend was seen to wait for ever and abort; whoever sits beside the run can set it.
    """
    shared = {
        "JAX_COMPILATION_CACHE_DIR": str((directory / ".cache").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return shared | dict(os.environ)


def carry_out(run: Run, place: pathlib.Path, env: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, Any]:
    """Train and evaluate a run in its workdir; returns what result.json holds. before: what it held, or {}.

    Seconds are wall-clock of the command, compilation included; train_seconds is None where the training was
    interrupted and resumed, since nobody saw how long the first part took.
    """
    place.mkdir(parents=True, exist_ok=True)
    fresh = not checkpoints.steps(place)
    result: dict[str, Any] = {"status": "failed", "reason": "", "figures": {}, "version": __version__, **run._asdict()}
    for command in ("train", "evaluate"):
        flags = getattr(run, command)
        argv = [sys.executable, "-m", "diffusion_jax.main", command, f"--workdir={place}", *flags]
        log.info("%s", shlex.join(argv))
        started = time.perf_counter()
        seconds: float | None
        figures, result["reason"] = execute(argv, place / f"{command}.log", env)
        seconds = round(time.perf_counter() - started, 1)
        if result["reason"]:
            result["status"] = "diverged" if GAVE_UP in result["reason"] else "failed"
            result["reason"] = f"{command}: {result['reason']}"
            return result
        if command == "train" and not fresh:
            seconds = before.get("train_seconds") if figures.get("finished") else None
        result[f"{command}_seconds"] = seconds
        result["figures"] |= {
            name: value if isinstance(value, str) else float(value)
            for name, value in files.json_ready(figures).items()
            if value in files.NOT_FINITE or (isinstance(value, int | float) and not isinstance(value, bool))
        }
    result["steps"] = int(result["figures"].pop("step"))
    result["reason"] = diverged(place, result["figures"])
    result["status"] = "diverged" if result["reason"] else "finished"
    return result


def execute(argv: list[str], path: pathlib.Path, env: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Run a command with its output appended to a log: (the JSON object of its last line, why it failed or "")."""
    with open(path, "a+") as file:
        file.write(f"{shlex.join(argv)}\n")
        file.flush()
        start = file.tell()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, env=env, text=True)
        file.seek(0, os.SEEK_END)
        file.write(done.stdout)
        file.seek(start)
        lines = [line.strip() for line in file if line.strip()]
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return {}, f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    if done.returncode:
        told = [match[1] or match[2] for match in map(ERROR_LINE.fullmatch, lines) if match]
        return {}, told[-1] if told else f"exit code {done.returncode}; see {path}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def diverged(workdir: pathlib.Path, figures: Mapping[str, Any]) -> str:
    """Why a run that came to its end counts as diverged, or "": the rule of every table that `compare` prints.

    Any figure or training loss that is not finite; a tenth or more of the updates skipped because they were not
    finite; a held-out loss that ended above the first one measured.
    """
    for name, value in figures.items():
        if isinstance(value, str) and not name.endswith("_stderr"):  # a single example has no standard error
            return f"{name} is {value}"
    records = metric_log.read_metrics(workdir)
    for record in records:
        if not math.isfinite(record.get("loss", 0.0)):
            return f"the training loss was {record['loss']} at step {record['step']}"
    skipped = next((record["skipped"] for record in reversed(records) if "skipped" in record), 0.0)
    if skipped >= 0.1 * records[-1]["step"]:
        return f"{skipped:.0f} of {records[-1]['step']} updates were not finite"
    heldout = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    if heldout and not heldout[-1] <= heldout[0]:
        return f"the held-out loss rose from {heldout[0]:.4g} to {heldout[-1]:.4g}"
    return ""
