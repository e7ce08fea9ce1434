"""What guidance buys and costs: over its scales, how many samples are of the class asked for, and how different."""

import csv
import io
import logging
from collections.abc import Mapping
from typing import Any

from etils import epath

from diffusion_jax import files
from diffusion_jax.analysis import sample_metrics
from diffusion_jax.experiment import guidances
from diffusion_jax.runs import pictures, trained

log = logging.getLogger(__name__)
COLUMNS = (
    "scale",
    "svm_agreement",
    "class_diversity",
    "svm_confidence_samples",
    "frechet_pixels",
    "network_calls",
    "num_samples",
)


def parse(scales: str) -> list[float]:
    """The numbers of "0,1,2.5". Raises ValueError."""
    try:
        return [float(scale) for scale in scales.split(",")]
    except ValueError:
        raise ValueError(f"--scales={scales!r} must be numbers with commas between, such as 0,1,2,4") from None


def compare_scales(
    run: trained.Run, scales: list[float], sections: Mapping[str, Any], number: int, seed: int = 0
) -> list[dict[str, float]]:
    """A row of COLUMNS for each scale of the run's guidance, each over the same seeds and classes.

    sections: what the run was loaded with, see `trained.load`. Also guidance.csv and guidance.png beside the other
    results, and the table in the log. Raises ValueError for a run without guidance or classes.
    """
    if not guidances.asks_for_class(run.config):
        raise ValueError("--scales: this model is asked for no class; guide it by one, --guidance.name=classifier")
    rows = []
    for scale in scales:
        guidance = {**sections.get("guidance", {}), "scale": scale}
        guided = trained.load(run.workdir, run.step, run.ema, **{**sections, "guidance": guidance})
        found = sample_metrics.svm_metrics(guided, number, seed)
        rows.append({"scale": scale, **{name: found[name] for name in COLUMNS[1:]}})
        log.info("guidance: %s", "  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    directory = trained.evaluation_directory(run)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    files.save_text(directory / "guidance.csv", buffer.getvalue())
    title = f"{epath.Path(run.workdir).name}: {run.config.guidance.name}, {number:,} samples each"
    pictures.scales(directory / "guidance.png", rows, title)
    return rows
