"""Samples of a trained run that are drawn once, kept beside its other results, and gone on with after a kill.

run = trained.load("runs/digits")
samples = kept.samples(run, np.arange(1500))
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
from diffusion_jax.runs import trained
from diffusion_jax.training import loop

log = logging.getLogger(__name__)


def samples(run: trained.Run, seeds: np.ndarray) -> np.ndarray:
    """The samples [N,*D] at these seeds, in the levels of the data, from `shards`."""
    parts = list(shards(run, seeds))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return np.concatenate([x for _, x in parts])[order]


def shards(run: trained.Run, seeds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows of `seeds`, their samples at rest) in parts: those on disk, then the others as they are drawn and kept.

    They stand in workdir/evaluation/<step>-<ema>/samples-<hash>/, the hash being that of all that a sample depends on
    beside its seed, so that the same command goes on where it was stopped. Raises ValueError for a damaged file.
    """
    directory = place(run)
    missing = np.ones(len(seeds), bool)
    for path in sorted(directory.glob("[0-9]*.npz")):
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                held, samples = file["seeds"], file["samples"]
            if samples.shape != (len(held), *run.config.data.shape):
                raise ValueError(f"samples of shape {samples.shape}")
        except Exception as error:
            raise ValueError(f"{path} is damaged; delete it, and the same command draws its samples again") from error
        rows = np.flatnonzero(missing & np.isin(seeds, held))
        missing[rows] = False
        if len(rows):
            row_of = dict(zip(held.tolist(), range(len(held)), strict=True))
            yield rows, samples[[row_of[seed] for seed in seeds[rows].tolist()]]

    to_draw = np.flatnonzero(missing)
    log.info("samples: %d of %d are kept in %s", len(seeds) - len(to_draw), len(seeds), directory)
    draw = loop.samples(run.config, run.experiment.sampler, complete=True)
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
    devices.wait_for_all("samples are kept")  # whoever looks next, in any process, finds them all


def place(run: trained.Run) -> epath.Path:
    """Where the samples of a run, a sampler, and a kind of device are kept, made if need be."""
    depends_on = {
        "step": run.step,
        "ema": run.ema,
        **drawn_by(run),
        "weights": hashed(run.params),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    text = json.dumps(depends_on, sort_keys=True, default=list)
    name = f"samples-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    directory = trained.evaluation_directory(run, shared=True) / name
    directory.mkdir(exist_ok=True)
    if devices.is_first():
        files.save_json(directory / "sampler.json", depends_on)
    return directory


def drawn_by(run: trained.Run) -> dict[str, Any]:
    """The sections of the config that decide how samples are drawn of a trained network."""
    return {name: run.config[name].to_dict() for name in ("sampler", "guidance") if name in run.config}


def hashed(params: Any) -> str:
    """A hash of the weights that samples are drawn with."""
    found = hashlib.sha256()
    for path, value in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        found.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(value).tobytes())
    return found.hexdigest()[:16]
