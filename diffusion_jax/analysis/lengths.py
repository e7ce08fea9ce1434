"""Metrics of a run against the length sigma_rel of post-hoc averages."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import averages, files
from diffusion_jax.analysis import tables
from diffusion_jax.runs import plots, trained

log = logging.getLogger(__name__)


def parse(lengths: str, config: ConfigDict) -> list[float]:
    """Return the numbers in "0.05,0.1" as lengths sigma_rel, in order.

    Raises ValueError, also unless the run of the config keeps two averages to make them of.
    """
    kept = [str(name) for name in config.ema.decays if str(name).startswith(averages.KEPT)]
    if lengths and len(kept) < 2:
        raise ValueError(
            f"--lengths={lengths}: the run keeps no two averages to make them of (got ema.decays="
            f"{tuple(config.ema.decays)}). Train with ema.decays=(0.9999,'{averages.KEPT}0.05','{averages.KEPT}0.1')"
        )
    return sorted(averages.sigma_of(f"{averages.ASKED}{text}", flag="--lengths") for text in lengths.split(",") if text)


def compare_lengths(
    run: trained.Run,
    lengths: list[float],
    sections: Mapping[str, Any],
    measure: Callable[[trained.Run], Mapping[str, Any]],
) -> list[dict[str, float]]:
    """Return a row {"sigma_rel": …, figure: …} of `measure` for the average of each length.

    sections: as the run was loaded with, see `trained.load`. Also writes lengths.csv and lengths.png beside the
    other results.
    """
    rows: list[dict[str, float]] = []
    for sigma_rel in lengths:
        averaged = trained.load(run.workdir, run.step, f"{averages.ASKED}{sigma_rel:g}", **sections)
        measured = measure(averaged).items()
        figures = {name: value for name, value in measured if isinstance(value, float)}  # and no counts
        rows.append({"sigma_rel": sigma_rel, **figures})
        log.info("averages: %s", "  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    directory = trained.evaluation_directory(run)
    names = list(rows[0])
    table = tables.comma_separated(names, ([row.get(name, math.nan) for name in names] for row in rows))
    files.save_text(directory / "lengths.csv", table)
    drawn = [name for name in names[1:] if not name.endswith(("_low", "_high", "_std"))]
    lines = {name: [(row["sigma_rel"], row[name]) for row in rows] for name in drawn}
    ends = {name: [[row.get(name + end, math.nan) for end in ("_low", "_high")] for row in rows] for name in drawn}
    marks = {name: [(*at, *end) for at, end in zip(lines[name], ends[name], strict=True)] for name in drawn}
    plots.series(directory / "lengths.png", lines, marks, "length of the average, sigma_rel")
    return rows
