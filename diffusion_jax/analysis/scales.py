"""Effect of the guidance scale: agreement of samples with their class against diversity."""

import logging
from collections.abc import Mapping
from typing import Any

from etils import epath

from diffusion_jax import files
from diffusion_jax.analysis import sample_metrics, tables
from diffusion_jax.experiment import guidances, quality
from diffusion_jax.runs import plots, trained

log = logging.getLogger(__name__)
COLUMNS = (
    "scale",
    "svm_agreement",
    "class_diversity",
    "svm_confidence",
    "frechet_pixels",
    "network_calls",
    "num_samples",
)


def parse(scales: str, config: Any) -> list[float]:
    """Return the numbers in "0,1,2.5" as scales of the guidance of a config. Raises ValueError."""
    if not scales:
        return []
    if not guidances.uses_label(config):
        raise ValueError(f"--scales={scales}: this model has no class to be guided by. Use --guidance.name=classifier")
    try:
        values = [float(scale) for scale in scales.split(",")]
    except ValueError:
        raise ValueError(f"--scales={scales!r}: must be numbers separated by commas, such as 0,1,2,4") from None
    if config.guidance.name == "none" and set(values) != {1.0}:
        raise ValueError(f"--scales={scales}: need guidance. Use --guidance.name=classifier_free")
    return values


def check(config: Any, number: int) -> None:
    """Raise ValueError unless `number` samples at several scales can be compared."""
    if not number:
        raise ValueError("--num_samples=0: --scales needs samples. Leave one of the two out")
    if why := quality.svm_refusal(config, decode=True):
        raise ValueError(f"--scales: the SVM {why}")


def compare_scales(
    run: trained.Run, scales: list[float], sections: Mapping[str, Any], number: int, seed: int = 0
) -> list[dict[str, float]]:
    """Return a row of COLUMNS for each guidance scale, at equal seeds and classes.

    sections: as the run was loaded with, see `trained.load`. Also writes guidance.csv and guidance.png beside
    the other results.
    """
    rows = []
    for scale in scales:
        guidance = {**sections.get("guidance", {}), "scale": scale}
        guided = trained.load(run.workdir, run.step, run.ema, **{**sections, "guidance": guidance})
        values = sample_metrics.svm_metrics(guided, number, seed)
        rows.append({"scale": scale, **{name: values[name] for name in COLUMNS[1:]}})
        log.info("guidance: %s", "  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    directory = trained.evaluation_directory(run)
    table = tables.comma_separated(COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
    files.save_text(directory / "guidance.csv", table)
    title = f"{epath.Path(run.workdir).name}: {run.config.guidance.name}, {number:,} samples per scale"
    plots.scales(directory / "guidance.png", rows, title)
    return rows
