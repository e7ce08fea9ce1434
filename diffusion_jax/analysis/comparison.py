"""Tables that compare the cells of a sweep, or separate runs.

The table of a sweep has a row per cell: mean and standard error of each value over the seeds, and how many seeds
finished, diverged or failed.
"""

import contextlib
import datetime
import itertools
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import config as configs
from diffusion_jax import files
from diffusion_jax.analysis import sweeps, tables
from diffusion_jax.analysis.tables import MISSING
from diffusion_jax.metrics import registry
from diffusion_jax.runs import metric_log, record, trained
from diffusion_jax.training import checkpoints

COLUMNS = (
    "bits_per_dim", "rate_bits_per_dim", "distortion_bits_per_dim", "rmse", "ode_bits_per_dim", "K_bits", "K_gap_bits",
    "frechet_pixels", "svm_confidence_ratio", "svm_rarest_class", "heldout_loss",
)  # fmt: skip
"""The first values of the printed table, if any cell has them; sample metrics follow. The CSV table has every value."""
SHOWN = re.compile(r"multi_bits_per_dim_\d+|heartbeat_.*|svm_agreement|class_diversity")
"""Names of further values of the printed table."""
MOST_COLUMNS = 20
"""Most keys and most values in a printed table."""
RECORD_KEYS = (
    "report.",
    "checkpoint.",
    "guard.",
    "eval.",
    "data.workers",
    "data.fingerprint",
    "data.heldout_fingerprint",
)
"""Beginnings of the keys that do not change what a run learns; a table of runs lists them last."""
NOT_RUN = "missing"
TIMES = ("train_seconds", "evaluate_seconds", "steps")


class Row(NamedTuple):
    """A cell of a sweep."""

    cell: str
    counts: dict[str, int]
    """Number of seeds by status."""
    reasons: dict[str, list[str]]
    """Reasons by status, one per seed."""
    values: dict[str, list[float]]
    """Values of the finished seeds by name."""


def compare_sweep(workdir: str) -> tuple[str, dict[str, Any]]:
    """Return the table of a sweep as Markdown, and its values by cell.

    Writes compare.md and compare.csv. Raises ValueError if the directory holds no sweep, or a file of the sweep
    cannot be read.
    """
    directory = pathlib.Path(files.expand(workdir))
    grid = sweeps.stored(directory)
    for suffix in (".md", ".csv"):
        files.check_file(directory / f"compare{suffix}")
    rows = read_rows(directory, grid)
    text = sweep_table(grid, rows)
    files.save_text(directory / "compare.md", text + "\n")
    files.save_text(directory / "compare.csv", sweep_csv(rows))
    cells = {
        row.cell: row.counts | {"figures": {name: mean_and_error(values) for name, values in row.values.items()}}
        for row in rows
    }
    return text, {"workdir": str(directory), "cells": cells}


def read_rows(directory: pathlib.Path, grid: dict[str, Any]) -> list[Row]:
    """Return the rows of a sweep, in the order of its file."""
    rows: dict[str, Row] = {}
    for name in grid["runs"]:
        cell, seed = name.split("/")
        row = rows.setdefault(cell, Row(cell, dict.fromkeys((*sweeps.STATUSES, NOT_RUN), 0), {}, {}))
        result = sweeps.result_of(directory, name)
        if not result:
            row.counts[NOT_RUN] += 1
            continue
        status = result["status"]
        row.counts[status] = row.counts.get(status, 0) + 1
        if result.get("reason"):
            row.reasons.setdefault(status, []).append(f"{seed}: {result['reason']}")
        if status == sweeps.FINISHED:
            for key, value in (result["figures"] | {key: result.get(key) for key in TIMES}).items():
                if value is not None:
                    row.values.setdefault(key, []).append(files.number(value))
    return list(rows.values())


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error, std / sqrt(n).

    The std is over n - 1; the error is None for a single value.
    """
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def rounded(values: Sequence[float]) -> str:
    """Return "mean ± error" to two digits of the error. Without an error, the mean to four digits."""
    if not values:
        return MISSING
    mean, error = mean_and_error(values)
    if not error:
        return f"{mean:.4g}" if abs(mean) < 1e4 else f"{mean:.0f}"
    decimals = max(0, 1 - math.floor(math.log10(float(f"{error:.1e}"))))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def status(row: Row) -> str:
    """Return the numbers of seeds by status, with the first reason for each."""
    total = sum(row.counts.values())
    parts = []
    for kind, count in row.counts.items():
        reason = f": {row.reasons[kind][0]}" if kind in row.reasons else ""
        if count:
            parts.append(f"{'not run' if kind == NOT_RUN else kind} ({count} of {total}){reason}")
    return "; ".join(parts)


def sweep_table(grid: dict[str, Any], rows: list[Row]) -> str:
    """Return the printed table."""
    columns = printed_columns(rows)
    cells = ([row.cell, *(rounded(row.values.get(name, [])) for name in columns), status(row)] for row in rows)
    lines = [
        f"# {grid['sweep']} (diffusion_jax {grid['version']})",
        "",
        "Mean ± standard error over the seeds that finished; seconds are wall-clock time.",
        *([grid["note"]] if grid["note"] else []),
        "",
        tables.markdown(["cell", *columns, "seeds"], cells, text=("seeds",)),
    ]
    return "\n".join(lines)


def printed_columns(rows: list[Row]) -> list[str]:
    """Return the names of the printed values.

    These are COLUMNS, sample metrics and SHOWN, as far as there are any, and TIMES.
    """
    names = dict.fromkeys(name for row in rows for name in row.values)
    return [name for name in dict.fromkeys([*COLUMNS, *filter(is_result, names), *TIMES]) if name in names]


def is_result(name: str) -> bool:
    """Return True for the headline values of an evaluation, False for intervals and parts."""
    return name in COLUMNS or registry.is_full_name(name) or bool(SHOWN.fullmatch(name))


def sweep_csv(rows: list[Row]) -> str:
    """Return the table of a sweep as CSV. It has every mean and standard error, and the numbers of seeds by status."""
    first = (*COLUMNS, *TIMES)
    names = [*first, *sorted({name for row in rows for name in row.values} - set(first))]
    columns = ["cell", *rows[0].counts, "status", *(f"{name}{part}" for name in names for part in ("", "_stderr"))]
    lines = []
    for row in rows:
        cells: list[Any] = []
        for name in names:
            mean, error = mean_and_error(row.values[name]) if name in row.values else (None, None)
            cells += ["" if value is None else repr(value) for value in (mean, error)]
        lines.append([row.cell, *row.counts.values(), status(row), *cells])
    return tables.comma_separated(columns, lines)


# Runs that belong to no sweep.


def compare_runs(workdirs: Sequence[str], out: str = "") -> tuple[str, dict[str, Any]]:
    """Compare the configs, steps, hours and newest evaluations of runs.

    Returns the table as Markdown, with the 95 % interval beside sample metrics, and {workdir: {column: value}}. out: a
    .md or .csv file for the table. Raises FileNotFoundError if a directory holds no run.
    """
    if out and pathlib.Path(out).suffix not in (".md", ".csv"):
        raise ValueError(f"--out={out}: must end in .md or .csv")
    stored = [configs.in_use(configs.plain(trained.read_config(workdir))) for workdir in workdirs]
    differing = differing_keys(stored)
    rows: dict[str, dict[str, Any]] = {}
    for workdir, config in zip(workdirs, stored, strict=True):
        row: dict[str, Any] = {key: config.get(key, MISSING) for key in differing}
        row |= {"step": checkpoints.find_step(workdir), "hours": hours(workdir)}
        rows[str(workdir)] = row | newest_values(pathlib.Path(files.expand(workdir)))
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    ends = {f"{column}_{end}" for column in columns for end in ("low", "high")}
    figures = [column for column in columns if column not in ends and column not in differing]
    printed = [*differing[:MOST_COLUMNS], *figures[:MOST_COLUMNS]]
    hidden = len(differing) + len(figures) - len(printed)

    def cell(row: dict[str, Any], column: str) -> str:
        value = row.get(column)
        text = MISSING if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
        low, high = (row.get(f"{column}_{end}") for end in ("low", "high"))
        return text if low is None or high is None else f"{text} [{low:.4g}, {high:.4g}]"

    lines = [[name, *(cell(row, column) for column in printed)] for name, row in rows.items()]
    text = tables.markdown(["run", *printed], lines)
    text += f"\n\n… and {hidden} more columns, see --out=FILE.csv" if hidden else ""
    if out.endswith(".md"):
        files.save_text(out, text + "\n")
    elif out:
        lines = [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
        files.save_text(out, tables.comma_separated(["run", *columns], lines))
    return text, {"runs": rows}


def differing_keys(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which flat configs, of choices that are made, differ, RECORD_KEYS last.

    A key that only one choice has, as network.unet.channels beside network.mlp, counts if the configs that have it
    differ in it.
    """
    keys = dict.fromkeys(key for config in flats for key in sorted(config))

    def differs(key: str) -> bool:
        whole = key.count(".") < 2
        return len({repr(config.get(key)) for config in flats if whole or key in config}) > 1

    return sorted(filter(differs, keys), key=lambda key: (key.startswith(RECORD_KEYS), key))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as {key with dots: value}, in order."""
    values: dict[str, Any] = {}
    for key in sorted(config):
        value = config[key]
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def hours(workdir: str) -> float | None:
    """Return the hours from the first to the last line of metrics.jsonl, without pauses. None without the file.

    A pause ends where the run's record has a start.
    """
    try:
        times = [line["time"] for line in metric_log.read_metrics(workdir) if "time" in line]
    except FileNotFoundError:
        return None
    lines = record.read(workdir)
    starts = [datetime.datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["event"] == "start"]
    gaps = [(a, b) for a, b in itertools.pairwise(times) if not any(a < start < b for start in starts)]
    return sum(b - a for a, b in gaps) / 3600 if times else None


def newest_values(directory: pathlib.Path) -> dict[str, Any]:
    """Return the numbers in figures.json of the newest evaluated checkpoint. Without one, the last held-out loss."""
    for folder, values in evaluations(directory)[:1]:
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float) and name != "step"}
        sampler = values.get("drawn", {}).get("by", {}).get("sampler.name")
        return {"evaluated": folder.name, **({"sampler": sampler} if sampler else {}), **numbers}
    with contextlib.suppress(FileNotFoundError):  # an imported run has no metrics
        loss = metric_log.last(directory, "heldout_loss")
        return {} if loss is None else {"heldout_loss": loss}
    return {}


def evaluations(directory: pathlib.Path, pictured: bool = False) -> list[tuple[pathlib.Path, dict[str, Any]]]:
    """Return folder and values of each evaluated checkpoint of a run, newest first.

    pictured: also of checkpoints that have pictures only. Values that are not finite are floats. Raises ValueError for
    a damaged figures.json.
    """
    folders = {
        path.parent
        for name in ("figures.json", *(["*.png"] * pictured))
        for path in directory.glob(f"evaluation/*/{name}")
    }
    numbered = [folder for folder in folders if folder.name.split("-")[0].isdigit()]
    found = []
    for folder in sorted(numbered, key=lambda folder: (-int(folder.name.split("-")[0]), folder.name)):
        path = folder / "figures.json"
        values = files.read_json(path) if path.exists() else {}
        found.append((folder, {name: files.number(value) for name, value in values.items()}))
    return found
