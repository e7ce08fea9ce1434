"""The table of a sweep: its cells as rows, the mean and standard error over seeds of each figure, and who diverged."""

import contextlib
import csv
import io
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import files
from diffusion_jax.analysis import html_report, sweeps
from diffusion_jax.runs import metric_log
from diffusion_jax.training import checkpoints

COLUMNS = (
    "bits_per_dim", "rate_bits_per_dim", "distortion_bits_per_dim", "rmse", "K_bits", "K_gap_bits", "frechet_pixels",
    "svm_confidence_ratio", "svm_rarest_class", "heldout_loss", "train_seconds", "evaluate_seconds", "steps",
)  # fmt: skip
"""The figures of the printed table, in this order, where any cell has them; the CSV has every figure."""
MISSING = "—"


class Row(NamedTuple):
    """A cell: how many of its seeds ended how, why, and {figure: its values over the finished seeds}."""

    cell: str
    counts: dict[str, int]
    reasons: dict[str, list[str]]
    figures: dict[str, list[float]]


def compare_sweep(workdir: str) -> tuple[str, dict[str, Any]]:
    """The table of a sweep as Markdown, and its figures by cell; writes compare.md and compare.csv into the workdir.

    Raises ValueError where there is no sweep, or a file of it cannot be read.
    """
    directory = pathlib.Path(workdir).expanduser()
    grid = sweeps.stored(directory)
    rows = read(directory, grid)
    text = markdown(grid, rows)
    for name, content in (("compare.md", text + "\n"), ("compare.csv", table(rows))):
        files.save_text(directory / name, content)
    cells = {
        row.cell: row.counts | {"figures": {name: mean_and_error(values) for name, values in row.figures.items()}}
        for row in rows
    }
    return text, {"workdir": str(directory), "cells": cells}


def read(directory: pathlib.Path, grid: dict[str, Any]) -> list[Row]:
    """The rows of a sweep, in the order of its file."""
    rows: dict[str, Row] = {}
    for name in grid["runs"]:
        cell, seed = name.split("/")
        row = rows.setdefault(cell, Row(cell, dict.fromkeys(("finished", "diverged", "failed", "missing"), 0), {}, {}))
        if not (directory / name / sweeps.RESULT).exists():
            row.counts["missing"] += 1
            continue
        result = sweeps.stored(directory / name, sweeps.RESULT)
        row.counts[result["status"]] += 1
        if result["reason"]:
            row.reasons.setdefault(result["status"], []).append(f"{seed}: {result['reason']}")
        if result["status"] == "finished":
            times = {key: result[key] for key in ("train_seconds", "evaluate_seconds", "steps")}
            for figure, value in (result["figures"] | times).items():
                if value is not None:
                    row.figures.setdefault(figure, []).append(files.number(value))
    return list(rows.values())


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, std / sqrt(n) with the std over n - 1; None for a single value."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def shown(values: Sequence[float]) -> str:
    """ "mean ± error", to two digits of the error; without an error, to four digits."""
    if not values:
        return MISSING
    mean, error = mean_and_error(values)
    if not error:
        return f"{mean:.4g}" if abs(mean) < 1e4 else f"{mean:.0f}"
    decimals = max(0, 1 - math.floor(math.log10(float(f"{error:.1e}"))))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def status(row: Row) -> str:
    """How the seeds of a cell ended, with the first reason of each kind."""
    total = sum(row.counts.values())
    parts = []
    for kind, count in row.counts.items():
        reason = f": {row.reasons[kind][0]}" if kind in row.reasons else ""
        if count:
            parts.append(f"{kind.replace('missing', 'not run')} ({count} of {total}){reason}")
    return "; ".join(parts)


def markdown(grid: dict[str, Any], rows: list[Row]) -> str:
    """The printed table."""
    columns = [name for name in COLUMNS if any(name in row.figures for row in rows)]
    lines = [
        f"# {grid['sweep']} (diffusion_jax {grid['version']})",
        "",
        "Mean ± standard error over the seeds that finished; seconds are wall-clock.",
        *([grid["note"]] if grid["note"] else []),
        "",
        "| " + " | ".join(["cell", *columns, "seeds"]) + " |",
        "|" + "|".join(["---", *["--:"] * len(columns), "---"]) + "|",
    ]
    for row in rows:
        values = [shown(row.figures.get(name, [])) for name in columns]
        lines.append("| " + " | ".join([row.cell, *values, status(row).replace("|", "\\|")]) + " |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """The CSV: the mean and the standard error of every figure, and how many seeds ended how."""
    extra = sorted({name for row in rows for name in row.figures} - set(COLUMNS))
    names = [*COLUMNS, *extra]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["cell", *rows[0].counts, "status", *(f"{name}{part}" for name in names for part in ("", "_stderr"))]
    )
    for row in rows:
        cells: list[Any] = []
        for name in names:
            mean, error = mean_and_error(row.figures[name]) if name in row.figures else (None, None)
            cells += ["" if value is None else repr(value) for value in (mean, error)]
        writer.writerow([row.cell, *row.counts.values(), status(row), *cells])
    return out.getvalue()


# Runs that belong to no sweep.


def compare_runs(workdirs: Sequence[str], out: str = "") -> tuple[str, dict[str, Any]]:
    """Runs as rows: where their configs differ, steps, hours, and every figure of their newest evaluation.

    Returns the table as Markdown, and {workdir: {column: value}}. out: a .md or .csv file to write it to as well.
    Figures of samples have the 95 % interval beside them. Raises FileNotFoundError where nothing was trained.
    """
    if out and pathlib.Path(out).suffix not in (".md", ".csv"):
        raise ValueError(f"--out={out} must end in .md or .csv")
    configs = [chosen(dict(html_report.flat(checkpoints.read_config(workdir)))) for workdir in workdirs]
    keys = sorted({key for config in configs for key in config})
    differing = [key for key in keys if len({repr(config.get(key, MISSING)) for config in configs}) > 1]
    rows: dict[str, dict[str, Any]] = {}
    for workdir, config in zip(workdirs, configs, strict=True):
        row: dict[str, Any] = {key: config.get(key, MISSING) for key in differing}
        row |= {"step": checkpoints.find_step(workdir), "hours": hours(workdir)}
        rows[str(workdir)] = row | figures_of(pathlib.Path(workdir).expanduser())
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    ends = [column for column in columns if column.rpartition("_")[2] in ("low", "high") and column[:-4].strip("_")]
    printed = [column for column in columns if column not in ends or column.rpartition("_")[0] not in columns]

    def cell(row: dict[str, Any], column: str) -> str:
        value = row.get(column)
        text = MISSING if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
        low, high = (row.get(f"{column}_{end}") for end in ("low", "high"))
        return text if low is None or high is None else f"{text} [{low:.4g}, {high:.4g}]"

    lines = ["| " + " | ".join(["run", *printed]) + " |", "|" + "|".join(["---"] + ["--:"] * len(printed)) + "|"]
    for name, row in rows.items():
        cells = [cell(row, column) for column in printed]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in [name, *cells]) + " |")
    text = "\n".join(lines)
    if out:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["run", *columns])
        writer.writerows([name, *(row.get(column, "") for column in columns)] for name, row in rows.items())
        files.save_text(out, text + "\n" if out.endswith(".md") else buffer.getvalue())
    return text, {"runs": rows}


def chosen(config: dict[str, Any]) -> dict[str, Any]:
    """A flat config without the options of choices that it does not make, such as network.mlp.depth of a U-Net."""

    def made(key: str) -> bool:
        section, *rest = key.split(".")
        return len(rest) < 2 or rest[0] in (value for k, value in config.items() if k.startswith(f"{section}."))

    return {key: value for key, value in config.items() if made(key)}


def hours(workdir: str) -> float | None:
    """From the first line of metrics.jsonl to the last, pauses included; None where there is none."""
    try:
        times = [record["time"] for record in metric_log.read_metrics(workdir)]
    except FileNotFoundError:
        return None
    return (times[-1] - times[0]) / 3600 if times else None


def figures_of(directory: pathlib.Path) -> dict[str, Any]:
    """The numbers in figures.json of the newest evaluated checkpoint; where there is none, the last held-out loss."""
    found = sorted(directory.glob("evaluation/*/figures.json"), key=lambda path: int(path.parent.name.split("-")[0]))
    if not found:
        with contextlib.suppress(FileNotFoundError):  # of a run that was imported
            found_loss = metric_log.last(directory, "heldout_loss")
            return {} if found_loss is None else {"heldout_loss": found_loss}
        return {}
    figures = json.loads(found[-1].read_text())
    return {"evaluated": found[-1].parent.name} | {
        name: value for name, value in figures.items() if isinstance(value, int | float) and name != "step"
    }
