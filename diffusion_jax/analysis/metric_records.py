"""Records of sample metrics in metrics.json: the figures and where they come from."""

from typing import Any

import jax
import numpy as np

from diffusion_jax import files
from diffusion_jax.metrics import reference
from diffusion_jax.runs import stored_samples, trained

RECORDS = "metrics.json"


def provenance(run: trained.Run, seeds: np.ndarray) -> dict[str, Any]:
    """Return the part of a record that identifies the evaluated samples."""
    return {
        "num_samples": len(seeds),
        "seeds": [int(seeds[0]), int(seeds[-1])],
        **trained.sampling_sections(run),
        "network_calls": trained.network_calls(run),
        "weights": {"step": run.step, "ema": run.ema, "hash": stored_samples.weights_hash(run.params)},
        "quantisation": quantisation(run.config.data.levels),
        "device": jax.devices()[0].device_kind,
        "versions": reference.versions(),
    }


def quantisation(levels: int) -> str:
    """Return how samples are quantised, in words."""
    if not levels:
        return "none; features of images are of values clipped to [-1, 1]"
    return f"clipped to [-1, 1], rounded to the nearest of {levels} levels"


def add_record(run: trained.Run, key: str, record: dict[str, Any]) -> None:
    """Add a record to metrics.json, or replace the record of the same key."""
    path = trained.evaluation_directory(run) / RECORDS
    records = files.read_json(path) if path.exists() else {}
    files.save_json(path, records | {key: record})


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of a record by name, with name_low, name_high and name_std, and its warnings as `marked`.

    Beside them stands the number of network calls for each sample; the number of samples is in the names.
    """
    values: dict[str, Any] = {"network_calls": record["network_calls"]}
    for name, entry in record["figures"].items():
        values |= {name if part == "value" else f"{name}_{part}": value for part, value in entry.items()}
    return values | ({"marked": record["marked"]} if record["marked"] else {})
