"""How good are samples for how much work? One checkpoint, samplers times numbers of steps, as a table and a picture.

    WORKDIR/evaluation/STEP-EMA/frontier/        a .npz for each cell: its samples, and its figures as JSON
                                frontier.md, .csv, .png, .npz

A cell that is there is not drawn again: the same command goes on where it was interrupted, and another one adds to the
same table.
"""

import csv
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

from diffusion_jax import files
from diffusion_jax.experiment import choices, sources, wiring
from diffusion_jax.metrics.frechet import frechet_interval, frechet_pixels
from diffusion_jax.metrics.svm import svm_confidence
from diffusion_jax.runs import pictures, trained

log = logging.getLogger(__name__)

MOST_DIMS = 1024
"""Dimensions of which a covariance of the data themselves is still worth looking at."""
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
    """A sampler to be judged."""

    name: str
    """Of its file."""
    label: str
    run: trained.Run


def compare_samplers(
    run: trained.Run, samplers: Sequence[str], steps: Sequence[int], number: int, seed: int = 0
) -> tuple[str, dict[str, Any]]:
    """Draw and judge what is missing of samplers x steps; returns the table of all cells so far, and what was done.

    samplers: NAME or NAME:GRID, the rest as run.config.sampler has it. steps: as sampler.num_steps, 0 for all steps of
    the chain. number, seed: as `trained.draw`. Raises ValueError, before anything is drawn, for what cannot be built.
    """
    config = run.config
    dims = int(np.prod(config.data.shape))
    if dims > MOST_DIMS:
        raise ValueError(
            f"frontier compares the data themselves, and {dims} dimensions are more than the {MOST_DIMS} of which a "
            "covariance says something; sample and judge with other features"
        )
    if number < 2:
        raise ValueError(f"--num_samples={number} must be at least 2")
    cells = [cell(run, sampler, count, number, seed) for sampler in samplers for count in steps]
    directory = trained.evaluation_directory(run) / "frontier"
    directory.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not (directory / f"{cell.name}.npz").exists()]
    train, heldout = (sources.source(config, split) for split in ("train", "heldout"))
    real, held_back = (source.read(np.arange(source.size)) for source in (train, heldout))
    for n, one in enumerate(missing):
        log.info("frontier: %s, %d of %d", one.label, n + 1, len(missing))
        started = time.perf_counter()
        seeds, samples = trained.draw(one.run, number, seed)
        seconds = time.perf_counter() - started
        low, high = frechet_interval(real[0], samples)
        section = one.run.config.sampler
        figures = {
            "sampler": one.label,
            "grid": section.grid,
            "num_steps": section.num_steps or config.process.num_steps,
            "network_calls": trained.network_calls(one.run),
            "num_samples": number,
            "seed": seed,
            "frechet_pixels": frechet_pixels(real[0], samples),
            "frechet_low": low,
            "frechet_high": high,
            **(svm_confidence(real, held_back, samples) if config.eval.svm else {}),
            "seconds": seconds,
        }
        files.save_npz(
            directory / f"{one.name}.npz", {"samples": samples, "seeds": seeds, "figures": json.dumps(figures)}
        )
        log.info("%s: Fréchet %.4g (%.4g to %.4g)", one.label, figures["frechet_pixels"], low, high)
    found = read(directory)
    title = f"{epath.Path(run.workdir).name}, step {run.step}, ema {run.ema}"
    real_figure = frechet_pixels(real[0], held_back[0])
    text = markdown(title, found, real_figure)
    parent = directory.parent
    files.save_text(parent / "frontier.md", text + "\n")
    files.save_text(parent / "frontier.csv", table(found))
    columns = list(found[0])
    files.save_npz(
        parent / "frontier.npz", {name: np.array([one.get(name, np.nan) for one in found]) for name in columns}
    )
    pictures.frontier(parent / "frontier.png", found, title, real_figure)
    log.info("%s", parent / "frontier.md")
    return text, {"cells": len(found), "drawn": len(missing), "table": str(parent / "frontier.md")}


def cell(run: trained.Run, sampler: str, steps: int, number: int, seed: int) -> Cell:
    """The cell of a sampler, NAME or NAME:GRID, and a number of steps."""
    name, _, grid = sampler.partition(":")
    config = run.config.copy_and_resolve_references()
    config.sampler.update(name=name, num_steps=steps, levels=(), times=(), grid=grid or config.sampler.grid)
    options = choices.options(config.sampler)
    label = name + "".join(f" {key}={value}" for key, value in options.items())
    said = {key: value for key, value in config.sampler.items() if not isinstance(value, ConfigDict) and key != "tile"}
    said |= {"options": options, "grid": dict(config.sampler.get(config.sampler.grid, {})), "set": (number, seed)}
    code = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
    file = f"{name}_{config.sampler.grid}_{steps}_{code}"
    return Cell(file, label, run._replace(config=config, experiment=wiring.build(config, run.params)))


def read(directory: epath.Path) -> list[dict[str, Any]]:
    """The figures of all cells in a folder, those of a sampler by their calls."""
    found = []
    for path in directory.glob("*.npz"):
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found.append(json.loads(str(file["figures"])))
    return sorted(found, key=lambda one: (one["sampler"], one["grid"], one["network_calls"], one["num_samples"]))


def markdown(title: str, found: Sequence[Mapping[str, Any]], real_figure: float) -> str:
    """The table."""
    columns = [name for name in COLUMNS if name in found[0]]
    lines = [
        f"# Samplers of {title}",
        "",
        "Fréchet distance to the training data in squared grey levels, with a 95 % bootstrap interval; it falls with "
        f"the number of samples. Held-out data: {real_figure:.4g}. Network calls are counted for one sample.",
        "",
        "| sampler | grid | steps | samples | " + " | ".join(COLUMNS[name] for name in columns) + " |",
        "|---|---|" + "--:|" * (2 + len(columns)),
    ]
    for one in found:
        shown = [str(one["network_calls"]), *(f"{one[name]:.4g}" for name in columns[1:])]
        first = [one["sampler"], one["grid"], str(one["num_steps"]), f"{one['num_samples']:,}"]
        lines.append("| " + " | ".join([*first, *shown]) + " |")
    return "\n".join(lines)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The CSV: every figure of every cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(found[0]), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()
