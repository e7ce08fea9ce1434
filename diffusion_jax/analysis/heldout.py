"""The held-out examples of a run, and functions mapped over them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import devices
from diffusion_jax.data import pipeline
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import sources
from diffusion_jax.process.base import Array
from diffusion_jax.runs.trained import Run

OnBatch = Callable[[Any, Array, dict[str, Array]], Any]
"""`function(params, key, batch)` returns a tree of arrays [B, …]; batch: stored x0 [B,*D], label and index [B]."""
OnExamples = Callable[[Any, Array, Array, Array], Any]
"""`function(params, keys [B], x0 [B,*D], label int [B])` returns a tree of arrays [B]; x0 in the model's range."""


def first_examples(source: Source, most: int) -> Source:
    """Return the source cut to its first `most` examples."""
    return source._replace(size=min(source.size, most))


def heldout_examples(config: ConfigDict) -> Source:
    """Return the held-out examples whose likelihood is evaluated: config.bound.num_examples or eval.max_examples."""
    return subset(sources.heldout(config), config.bound.num_examples or config.eval.max_examples)


def map_batches(run: Run, function: OnBatch, heldout: Source) -> Any:
    """Return the results of a function of all examples of `heldout`.

    `function` is applied to stored examples; the results are a tree of arrays [N, …].
    """
    config = run.config
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    size = config.sampler.tile * jax.device_count()

    def batches() -> Iterator[tuple[dict[str, np.ndarray]]]:
        for i, batch in enumerate(pipeline.in_order(heldout, size, workers=config.data.workers)):
            real = batch.pop("mask") > 0
            batch["index"] = batch["index"] + np.int32(i * size)
            yield ({name: rows[real] for name, rows in batch.items()},)

    tiled = devices.TiledMap(function, config.sampler.tile, replicated=2, name="held-out examples")
    parts = list(tiled.stream((run.params, key), batches(), heldout.size))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def map_copies(run: Run, function: OnExamples, copies: int, name: str) -> Any:
    """Return the results of a function for `copies` copies of each held-out example.

    The results are a tree of arrays [N, copies]. The key of a row depends on config.seed and on the numbers of the
    example and the copy. Copies differ by their keys alone. name: shown with the progress.
    """
    config = run.config
    heldout = heldout_examples(config)
    x, label = heldout.read(np.arange(heldout.size))
    total, size = heldout.size * copies, config.sampler.tile * jax.device_count()

    def on_rows(params: Any, key: Array, rows: dict[str, Array]) -> Any:
        def key_of(example: Array, copy: Array) -> Array:
            return jax.random.fold_in(jax.random.fold_in(key, example), copy)

        keys = jax.vmap(key_of)(rows["example"], rows["copy"])
        return function(params, keys, to_model(rows["x0"], config.data.levels), rows["label"])

    def batches() -> Iterator[tuple[dict[str, np.ndarray]]]:
        for first in range(0, total, size):
            numbers = np.divmod(np.arange(first, min(first + size, total)), copies)
            example, copy = (part.astype(np.int32) for part in numbers)
            yield ({"x0": x[example], "label": np.asarray(label)[example], "example": example, "copy": copy},)

    tiled = devices.TiledMap(on_rows, config.sampler.tile, replicated=2, name=name)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    parts = list(tiled.stream((run.params, key), batches(), total))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays).reshape(heldout.size, copies), *parts)
