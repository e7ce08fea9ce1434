"""Samples of a trained run, drawn once and stored in its run directory.

Drawing resumes after a kill.

run = trained.load("runs/digits")
samples = stored_samples.samples(run, np.arange(1500))
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from diffusion_jax import devices, files, progress
from diffusion_jax.experiment import drawing
from diffusion_jax.runs import trained

log = logging.getLogger(__name__)

FORMAT = 2
"""Raised when samples of a seed change, so that stored ones are drawn again."""


def samples(run: trained.Run, seeds: np.ndarray) -> np.ndarray:
    """Return the samples [N,*D] at these seeds, in the levels of the data, from `shards`."""
    parts = list(shards(run, seeds))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return np.concatenate([x for _, x in parts])[order]


def shards(run: trained.Run, seeds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of `seeds` and their samples, stored ones first, then drawn ones.

    The files are in workdir/evaluation/<step>-<ema>/samples-<hash>/, where the hash covers everything that a sample
    depends on beside its seed. Raises ValueError for a damaged file.
    """
    directory = directory_of(run)
    missing = np.ones(len(seeds), bool)
    for path in sorted(directory.glob("[0-9]*.npz")):
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                stored_seeds, samples = file["seeds"], file["samples"]
            if samples.shape != (len(stored_seeds), *run.config.data.shape):
                raise ValueError(f"samples of shape {samples.shape}")
        except Exception as error:
            raise ValueError(f"{path}: damaged. Delete it; the same command then draws its samples again") from error
        rows = np.flatnonzero(missing & np.isin(seeds, stored_seeds))
        missing[rows] = False
        if len(rows):
            row_of = dict(zip(stored_seeds.tolist(), range(len(stored_seeds)), strict=True))
            yield rows, samples[[row_of[seed] for seed in seeds[rows].tolist()]]

    to_draw = np.flatnonzero(missing)
    log.info("samples: %d of %d are stored in %s", len(seeds) - len(to_draw), len(seeds), directory)
    draw = drawing.samples(run.config, run.experiment.sampler, complete=True)
    per_call = run.config.sampler.tile * jax.device_count()
    with progress.track("samples", len(to_draw)) as report:
        for first in range(0, len(to_draw), per_call):
            rows = to_draw[first : first + per_call]
            samples = draw(run.params, seeds[rows])
            if devices.is_first():
                path = directory / f"{seeds[rows[0]]:010d}-{len(rows)}.npz"
                files.save_npz(path, {"seeds": seeds[rows], "samples": samples})
            yield rows, samples
            report(first + len(rows))
    devices.wait_for_all("samples are stored")  # so that every process finds the files of all


def directory_of(run: trained.Run) -> epath.Path:
    """Return the directory of stored samples, made if necessary.

    It depends on the run, the sampler and the kind of device.
    """
    depends_on = {
        "format": FORMAT,
        "step": run.step,
        "ema": run.ema,
        **trained.sampling_sections(run),
        "weights": weights_hash(run.params),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    text = json.dumps(depends_on, sort_keys=True, default=list)
    name = f"samples-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    directory = trained.evaluation_directory(run, shared=True) / name
    files.check_folder(directory)
    directory.mkdir(exist_ok=True)
    if devices.is_first():
        files.save_json(directory / "sampler.json", depends_on)
    return directory


def weights_hash(params: Any) -> str:
    """Return the first 16 digits of the SHA-256 of a tree of weights."""
    sha = hashlib.sha256()
    for path, value in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        sha.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()[:16]
