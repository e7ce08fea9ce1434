"""Turn arrays into a Source, and check them."""

import logging
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.data.scaling import check_levels
from diffusion_jax.data.source import Source, from_arrays
from diffusion_jax.experiment import sources

log = logging.getLogger(__name__)


def source_from_arrays(data: Any, labels: Any, levels: int | None, name: str) -> Source:
    """Return a Source of arrays. Raises ValueError for a dtype, range or shape that no model takes.

    levels: grey levels, 0 for floats, None by the dtype. name: of the argument, for errors.
    """
    if isinstance(data, Source):
        return data
    x = np.asarray(data)
    if x.ndim < 2 or not len(x):
        raise ValueError(f"{name}: expected an array [N,*D] with N > 0, got shape {x.shape}")
    if x.ndim == 3:
        x = x[..., None]
    whole = np.issubdtype(x.dtype, np.integer)
    if not whole and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name}: expected uint8 or floats, got dtype {x.dtype}")
    levels = (256 if whole else 0) if levels is None else levels
    check_levels(levels)
    if whole and not levels:
        raise ValueError(f"{name}: the model takes floats, got dtype {x.dtype}")
    if not whole and levels:
        raise ValueError(
            f"{name}: the model takes grey levels 0 … {levels - 1}, got dtype {x.dtype}; pass an integer array"
        )
    if whole and (x.min() < 0 or x.max() >= levels):
        raise ValueError(f"{name}: expected grey levels 0 … {levels - 1}, got {x.min()} to {x.max()}; see levels=")
    if not whole and not np.isfinite(x).all():
        raise ValueError(f"{name}: {int((~np.isfinite(x)).sum())} values are not finite")
    if not whole and x.ndim == 4 and x.min() >= 0 and x.max() > 0:
        log.warning("%s: no value of these images is below 0; their range is -1 … 1. Rescale 0 … 1 by 2 x - 1", name)
    y = None if labels is None else np.asarray(labels)
    if y is not None and (y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0):
        whose = "labels" if name == "data" else f"labels of {name}"
        raise ValueError(f"{whose}: must be integers >= 0 of shape ({len(x)},); got {y.dtype}, {y.shape}")
    classes = 0 if y is None else int(y.max()) + 1
    return from_arrays(name, x.astype(np.uint8 if whole else np.float32), y, levels, classes)


def check_range(config: ConfigDict, source: Source, name: str) -> None:
    """Raise ValueError for float images outside [-1, 1] where the model clips to it."""
    if source.levels or len(source.shape) != 3 or source.on_disk or not config.sampler.clip_x0:
        return
    x = source.read(np.arange(source.size))[0]
    if np.abs(x).max() > 1 + sources.CLIP_SLACK:
        raise ValueError(f"{name}: images of floats must lie in [-1, 1], got {x.min():g} to {x.max():g}; rescale them")


def with_classes_of_run(config: ConfigDict, source: Source, name: str) -> Source:
    """Return a source with the classes of a run. Raises ValueError for labels that the model cannot take or lacks."""
    classes = config.data.classes
    if classes and source.classes > classes:
        raise ValueError(
            f"{name}: has class {source.classes - 1}, but the model has {classes} classes, 0 … {classes - 1}"
        )
    if not source.classes and config.network.conditional and not config.network.label_dropout:
        raise ValueError(
            f"{name}: are missing, and the model is trained with labels alone (label_dropout=0). Pass them"
        )
    return source._replace(classes=classes)
