"""Sample quality against network calls: one checkpoint, several samplers and numbers of steps.

    WORKDIR/evaluation/STEP-EMA/frontier/        a .npz for each cell: its values as JSON
                                frontier.md, .csv, .png, .npz    of pixels; frontier_FEATURES.md, … of other features

A stored cell is not computed again, and samples are stored as they are drawn (stored_samples.py): the same command
resumes after an interruption, and another one adds to the table.
"""

import hashlib
import io
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import files, progress
from diffusion_jax.analysis import sample_metrics, tables
from diffusion_jax.experiment import choices, quality, sources, wiring
from diffusion_jax.metrics import bootstrap, frechet, registry
from diffusion_jax.metrics.features import FeatureNetwork
from diffusion_jax.metrics.svm import svm_confidence
from diffusion_jax.runs import plots, stored_samples, trained
from diffusion_jax.sampling import grids
from diffusion_jax.sampling.registry import SAMPLERS

log = logging.getLogger(__name__)

MOST_PIXELS = 1024
"""Dimensions of data up to which the Fréchet distance of pixels is the default; beyond, of Inception features."""
COLUMNS = {
    "network_calls": "network calls",
    "frechet": "Fréchet",
    "frechet_low": "2.5 %",
    "frechet_high": "97.5 %",
    "svm_confidence": "SVM confidence",
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
    run: trained.Run,
    samplers: Sequence[str],
    steps: Sequence[int],
    number: int,
    seed: int = 0,
    features: str = "",
    weights: str = "",
    replicates: int = 100,
) -> tuple[str, dict[str, Any]]:
    """Evaluate samplers x steps, as far as cells are missing.

    Returns the table of all stored cells, and a summary.

    samplers: NAME or NAME:GRID, with the other options of run.config.sampler. steps: values of sampler.num_steps; 0:
    all steps of the chain, down to sampler.min_t. number, seed: as in `trained.draw`. features, weights: a feature
    network, see `quality.feature_network`; "": pixels up to MOST_PIXELS dimensions, else inception. replicates: of
    the bootstrap behind each interval; 0: no intervals. Raises ValueError, before anything is drawn, for a sampler that
    cannot be built.
    """
    config = run.config
    shape, levels = tuple(config.data.shape), config.data.levels
    if not samplers or not steps:
        raise ValueError("frontier: no sampler or no number of steps named. Use --samplers=ddim --steps=10,20")
    if number < bootstrap.LEAST:
        raise ValueError(f"--num_samples={number}: must be at least {bootstrap.LEAST}")
    bootstrap.check_replicates(replicates)
    seeds = trained.seeds_from(seed, number)
    features = features or ("pixels" if math.prod(shape) <= MOST_PIXELS else "inception")
    network = quality.feature_network(features, shape, levels, weights=weights)
    cells = [
        make_cell(run, sampler, count, number, seed, network)
        for sampler in dict.fromkeys(samplers)
        for count in dict.fromkeys(steps)
    ]
    directory = trained.evaluation_directory(run) / "frontier"
    files.check_folder(directory)
    directory.mkdir(parents=True, exist_ok=True)
    done = {path.stem for path in directory.glob("*.npz") if replicates in (0, read_cell(path).get("replicates", 0))}
    missing = [cell for cell in cells if cell.name not in done]
    reference = sample_metrics.own_reference(run, network)
    real = mean, cov = reference.mean, reference.cov
    distance = frechet.frechet_from(mean, cov)
    heldout = sources.heldout_or_none(config, "the distance of held-out data")
    heldout_distance = None
    if heldout and heldout.size > 1:
        heldout_distance = distance(*frechet.statistics(quality.split_features(config, "heldout", network).features))
    with progress.track("cells", len(missing)) as report:
        for i, cell in enumerate(missing, 1):
            values = evaluate_cell(cell, network, seeds, real, replicates)
            files.save_npz(directory / f"{cell.name}.npz", {"figures": json.dumps(values)})
            log.info("%s: Fréchet distance %.4g", cell.label, values[f"frechet_{network.name}"])
            report(i)
    rows = read_cells(directory, network.name)
    title = f"{epath.Path(run.workdir).name}, step {run.step}, ema {run.ema}"
    text = markdown(title, rows, heldout_distance, network.name, len(mean))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path = directory.parent / ("frontier" if network.name == "pixels" else f"frontier_{network.name}")
    files.save_text(path.with_suffix(".md"), text + "\n")
    lines = ([row.get(name, "") for name in columns] for row in rows)
    files.save_text(path.with_suffix(".csv"), tables.comma_separated(columns, lines))
    files.save_npz(
        path.with_suffix(".npz"), {name: np.array([row.get(name, np.nan) for row in rows]) for name in columns}
    )
    plots.frontier(path.with_suffix(".png"), rows, title, heldout_distance, network.name)
    log.info("%s", path.with_suffix(".md"))
    return text, {
        "cells": len(rows),
        "computed": len(missing),
        "features": network.name,
        "table": str(path.with_suffix(".md")),
    }


def evaluate_cell(
    cell: Cell, network: FeatureNetwork, seeds: np.ndarray, real: tuple[np.ndarray, np.ndarray], replicates: int
) -> dict[str, Any]:
    """Return the values of a cell. real: mean and covariance of the features of the training data."""
    config = cell.run.config
    fresh = not any(stored_samples.directory_of(cell.run).glob("[0-9]*.npz"))
    started = time.perf_counter()
    samples = stored_samples.samples(cell.run, seeds)
    seconds = time.perf_counter() - started
    extracted, _ = sample_metrics.sample_features(cell.run, network, seeds)
    distance = frechet.frechet_from(*real)

    def statistic(rows: Any) -> float:
        return distance(*frechet.statistics(extracted.features[rows]))

    whole = statistic(registry.ALL)
    values = {
        "sampler": cell.label,
        "grid": config.sampler.grid,
        "num_steps": config.sampler.num_steps or len(cell.run.experiment.sampler.coefficients(cell.run.params).at.t),
        "network_calls": trained.network_calls(cell.run),
        "num_samples": len(seeds),
        "seed": int(seeds[0]),
        "samples": stored_samples.directory_of(cell.run).name,
        "features": network.name,
        f"frechet_{network.name}": whole,
    }
    if replicates:
        low, high = bootstrap.interval(
            statistic, whole, len(seeds), replicates, name="the distance", within=registry.range_of("fd")
        )
        values |= {"frechet_low": low, "frechet_high": high, "replicates": replicates}
    if config.eval.svm and (heldout := sources.heldout_or_none(config, "SVM")):
        train = sources.source(config, "train")
        examples = (source.read(np.arange(source.size)) for source in (train, heldout))
        values |= svm_confidence(next(examples), next(examples), samples) if train.classes > 1 else {}
    return values | ({"seconds": seconds} if fresh else {})


def make_cell(
    run: trained.Run, sampler: str, steps: int, number: int, seed: int, network: FeatureNetwork | None = None
) -> Cell:
    """Return the cell of a sampler, NAME or NAME:GRID, with a number of steps. network: None for pixels.

    The label has the options that differ from their defaults.
    """
    name, grid = split_name(sampler)
    config = run.config.copy_and_resolve_references()
    config.sampler.update(name=name, num_steps=steps, levels=(), times=(), grid=grid or config.sampler.grid)
    defaults = choices.signature_options(choices.choose("sampler.name", name, SAMPLERS))
    options = {key: value for key, value in choices.options(config.sampler).items() if value != defaults.get(key)}
    label = name + "".join(f" {key}={value}" for key, value in options.items())
    chosen = {k: value for k, value in config.sampler.items() if not isinstance(value, ConfigDict) and k != "tile"}
    chosen |= {"options": options, "grid": choices.options(config.sampler, "grid"), "set": (number, seed)}
    if config.guidance.name != "none":
        label += f" guidance={config.guidance.scale:g}"
        chosen |= {
            "guidance": {key: value for key, value in configs.in_use(config).items() if key.startswith("guidance.")}
        }
    if network and network.name != "pixels":
        chosen |= {"features": [network.name, network.weights]}
    code = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]
    file = f"{name}_{config.sampler.grid}_{steps}_{code}".replace(":", ".")
    return Cell(file, label, run._replace(config=config, experiment=wiring.build(config, run.params, guide=run.guide)))


def split_name(sampler: str) -> tuple[str, str]:
    """Return name and grid ("": none) of NAME or NAME:GRID, each of which may be "module:function"."""
    parts = sampler.split(":")
    own = 1 if parts[0] in SAMPLERS or parts[1:] in ([], *([grid] for grid in grids.GRIDS)) else 2
    return ":".join(parts[:own]), ":".join(parts[own:])


def read_cell(path: epath.Path) -> dict[str, Any]:
    """Return the values of a stored cell. Raises ValueError for a damaged file."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            values: dict[str, Any] = json.loads(str(file["figures"]))
    except Exception as error:
        raise ValueError(f"{path}: damaged. Delete it; the same command then computes it again") from error
    return values


def read_cells(directory: epath.Path, features: str = "pixels") -> list[dict[str, Any]]:
    """Return the values of the stored cells, by sampler, grid, calls and samples."""
    cells = [read_cell(path) for path in directory.glob("*.npz")]
    cells = [cell for cell in cells if cell.get("features", "pixels") == features]
    return sorted(cells, key=lambda cell: (cell["sampler"], cell["grid"], cell["network_calls"], cell["num_samples"]))


def markdown(
    title: str, cells: Sequence[Mapping[str, Any]], heldout_distance: float | None, features: str, dims: int
) -> str:
    """Return the printed table. dims: number of features."""
    keys = {name: f"frechet_{features}" if name == "frechet" else name for name in COLUMNS}
    columns = [name for name, key in keys.items() if any(key in cell for cell in cells)]

    def number(value: float | None) -> str:
        return tables.MISSING if value is None else f"{value:.4g}"

    rows = [
        [
            cell["sampler"],
            cell["grid"],
            f"{cell['num_steps']}",
            f"{cell['num_samples']:,}",
            f"{cell['network_calls']}",
            *(number(cell.get(keys[name])) for name in columns[1:]),
        ]
        for cell in cells
    ]
    header = ["sampler", "grid", "steps", "samples", *(COLUMNS[name] for name in columns)]
    held = "" if heldout_distance is None else f" Held-out data: {heldout_distance:.4g}."
    interval = ", with a 95 % bootstrap interval" if "frechet_low" in columns else ""
    few = min(cell["num_samples"] for cell in cells) <= dims
    lines = [
        f"# Samplers of {title}",
        "",
        f"Fréchet distance to the training data in {plots.frechet_unit(features)}{interval}. "
        f"It decreases with the number of samples.{held} Network calls are per sample.",
        *(
            [f"Some rows have no more samples than there are features, {dims}: compare equal numbers only."]
            if few
            else []
        ),
        "",
        tables.markdown(header, rows, text=("grid",)),
    ]
    return "\n".join(lines)
