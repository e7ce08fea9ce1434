"""Sample quality against network calls: one checkpoint, several samplers and numbers of steps.

    WORKDIR/evaluation/STEP-EMA/frontier/        a .npz for each cell: its samples, and its values as JSON
                                frontier.md, .csv, .png, .npz

A stored cell is not drawn again: the same command resumes after an interruption, and another one adds to the table.
"""

import hashlib
import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from diffusion_jax import files, progress
from diffusion_jax.analysis import tables
from diffusion_jax.experiment import choices, sources, wiring
from diffusion_jax.metrics.frechet import frechet_interval, frechet_pixels
from diffusion_jax.metrics.svm import svm_confidence
from diffusion_jax.runs import pictures, trained

log = logging.getLogger(__name__)

MOST_DIMS = 1024
"""Dimensions of data above which a Fréchet distance of the data themselves means little."""
COLUMNS = {
    "network_calls": "network calls",
    "frechet_pixels": "Fréchet",
    "frechet_low": "2.5 %",
    "frechet_high": "97.5 %",
    "svm_confidence_samples": "SVM confidence",
    "svm_confidence_ratio": "ratio to real",
    "svm_rarest_class": "rarest class",
    "seconds": "seconds",
}


class Cell(NamedTuple):
    """A sampler with a number of steps."""

    name: str
    """The name of its file, without .npz."""
    label: str
    run: trained.Run


def compare_samplers(
    run: trained.Run, samplers: Sequence[str], steps: Sequence[int], number: int, seed: int = 0
) -> tuple[str, dict[str, Any]]:
    """Evaluate samplers x steps, as far as cells are missing; return the table of all stored cells, and a summary.

    samplers: NAME or NAME:GRID, with the other options of run.config.sampler. steps: values of sampler.num_steps; 0:
    all steps of the chain. number, seed: as in `trained.draw`. Raises ValueError, before anything is drawn, for a
    sampler that cannot be built.
    """
    config = run.config
    dims = int(np.prod(config.data.shape))
    if dims > MOST_DIMS:
        raise ValueError(
            f"frontier: compares the data themselves, which have {dims} dimensions; the maximum is {MOST_DIMS}. Use "
            "main evaluate with --metrics=fid for each sampler"
        )
    if number < 2:
        raise ValueError(f"--num_samples={number}: must be at least 2")
    cells = [make_cell(run, sampler, count, number, seed) for sampler in samplers for count in steps]
    directory = trained.evaluation_directory(run) / "frontier"
    directory.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not (directory / f"{cell.name}.npz").exists()]
    train, heldout = (sources.source(config, split) for split in ("train", "heldout"))
    real, real_heldout = (source.read(np.arange(source.size)) for source in (train, heldout))
    with progress.track("cells", len(missing)) as report:
        for i, cell in enumerate(missing, 1):
            started = time.perf_counter()
            seeds, samples = trained.draw(cell.run, number, seed)
            seconds = time.perf_counter() - started
            low, high = frechet_interval(real[0], samples)
            section = cell.run.config.sampler
            values = {
                "sampler": cell.label,
                "grid": section.grid,
                "num_steps": section.num_steps or config.process.num_steps,
                "network_calls": trained.network_calls(cell.run),
                "num_samples": number,
                "seed": seed,
                "frechet_pixels": frechet_pixels(real[0], samples),
                "frechet_low": low,
                "frechet_high": high,
                **(svm_confidence(real, real_heldout, samples) if config.eval.svm else {}),
                "seconds": seconds,
            }
            content = {"samples": samples, "seeds": seeds, "figures": json.dumps(values)}
            files.save_npz(directory / f"{cell.name}.npz", content)
            log.info("%s: Fréchet distance %.4g (%.4g to %.4g)", cell.label, values["frechet_pixels"], low, high)
            report(i)
    rows = read_cells(directory)
    title = f"{epath.Path(run.workdir).name}, step {run.step}, ema {run.ema}"
    heldout_distance = frechet_pixels(real[0], real_heldout[0])
    text = markdown(title, rows, heldout_distance)
    columns, parent = list(rows[0]), directory.parent
    files.save_text(parent / "frontier.md", text + "\n")
    lines = ([row.get(name, "") for name in columns] for row in rows)
    files.save_text(parent / "frontier.csv", tables.comma_separated(columns, lines))
    arrays = {name: np.array([row.get(name, np.nan) for row in rows]) for name in columns}
    files.save_npz(parent / "frontier.npz", arrays)
    pictures.frontier(parent / "frontier.png", rows, title, heldout_distance)
    log.info("%s", parent / "frontier.md")
    return text, {"cells": len(rows), "drawn": len(missing), "table": str(parent / "frontier.md")}


def make_cell(run: trained.Run, sampler: str, steps: int, number: int, seed: int) -> Cell:
    """Return the cell of a sampler, NAME or NAME:GRID, with a number of steps."""
    name, _, grid = sampler.partition(":")
    config = run.config.copy_and_resolve_references()
    config.sampler.update(name=name, num_steps=steps, levels=(), times=(), grid=grid or config.sampler.grid)
    options = choices.options(config.sampler)
    label = name + "".join(f" {key}={value}" for key, value in options.items())
    chosen = {k: value for k, value in config.sampler.items() if not isinstance(value, ConfigDict) and k != "tile"}
    chosen |= {"options": options, "grid": dict(config.sampler.get(config.sampler.grid, {})), "set": (number, seed)}
    code = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]
    file = f"{name}_{config.sampler.grid}_{steps}_{code}"
    return Cell(file, label, run._replace(config=config, experiment=wiring.build(config, run.params)))


def read_cells(directory: epath.Path) -> list[dict[str, Any]]:
    """Return the values of all stored cells, ordered by sampler, grid, network calls and number of samples."""
    cells = []
    for path in directory.glob("*.npz"):
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            cells.append(json.loads(str(file["figures"])))
    return sorted(cells, key=lambda cell: (cell["sampler"], cell["grid"], cell["network_calls"], cell["num_samples"]))


def markdown(title: str, cells: Sequence[Mapping[str, Any]], heldout_distance: float) -> str:
    """Return the printed table."""
    columns = [name for name in COLUMNS if name in cells[0]]
    rows = [
        [
            cell["sampler"],
            cell["grid"],
            f"{cell['num_steps']}",
            f"{cell['num_samples']:,}",
            f"{cell['network_calls']}",
            *(f"{cell[name]:.4g}" for name in columns[1:]),
        ]
        for cell in cells
    ]
    header = ["sampler", "grid", "steps", "samples", *(COLUMNS[name] for name in columns)]
    lines = [
        f"# Samplers of {title}",
        "",
        "Fréchet distance to the training data in squared grey levels, with a 95 % bootstrap interval; it decreases "
        f"with the number of samples. Held-out data: {heldout_distance:.4g}. Network calls are per sample.",
        "",
        tables.markdown(header, rows, text=("grid",)),
    ]
    return "\n".join(lines)
