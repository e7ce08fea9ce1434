"""The variational bound of a trained run on held-out data: every term, figures and curves.

run = trained.load("runs/digits")
figures, terms, curves = bound.variational_bound(run)
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from diffusion_jax import devices, files
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source
from diffusion_jax.experiment import objectives, paths, samplers, sources
from diffusion_jax.likelihood import variational
from diffusion_jax.objective.prediction import clip_x0
from diffusion_jax.process.base import Array
from diffusion_jax.runs import pictures, trained

log = logging.getLogger(__name__)


def variational_bound(run: trained.Run) -> tuple[dict[str, float], variational.BoundTerms, dict[str, np.ndarray]]:
    """The bound on held-out data: figures, the terms of every example, and the curves of `evaluation.likelihood`.

    As config.bound asks. With grey levels the figures also hold `baseline_bits_per_dim`, of independent pixels.
    """
    config, experiment = run.config, run.experiment
    options = config.bound
    rows = paths.chain_rows(config, experiment.process, experiment.schedule, options.num_steps)(None)
    predict = clip_x0(experiment.predict) if samplers.clips(config, options) else experiment.predict
    step_term = objectives.vlb_term(config, experiment.process, experiment.reverse)
    make = variational.make_terms(predict, experiment.process, experiment.schedule, step_term, rows)

    into = sources.into_range(config)

    def on_data(params: Any, key: Array, batch: dict[str, Array]) -> variational.BoundTerms:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"])
        return make(params, key, batch | {"x0": into(batch["x0"], keys)})

    heldout = heldout_examples(config)
    terms = of_every_example(run, on_data, heldout, config.sampler.tile)

    dims = int(np.prod(config.data.shape))
    figures = variational.summarise(terms, dims)
    if config.data.levels:
        figures["baseline_bits_per_dim"] = baseline(config, heldout)
    return figures, terms, variational.curves(terms, np.asarray(rows.at.t), dims)


def report_bound(run: trained.Run) -> tuple[dict[str, Any], np.ndarray]:
    """`variational_bound`, with every term in vlb.npz and the curves in vlb.png and rate_distortion.png.

    Returns the figures, and the bound of every example in nats [examples].

    vlb.npz: the curves by name; `terms_nats` [examples, 1 + N], L_T first, and `mse` [examples, N].
    """
    figures, terms, curves = variational_bound(run)
    directory = trained.evaluation_directory(run)
    terms_nats = np.concatenate([terms.prior[:, None], terms.steps], axis=1)
    files.save_npz(directory / "vlb.npz", {"terms_nats": terms_nats, "mse": terms.mse, **curves})
    title = f"{epath.Path(run.workdir).name}: {figures['bits_per_dim']:.3f} bits/dim"
    pictures.bound_terms(directory / "vlb.png", curves, title)
    pictures.rate_distortion(directory / "rate_distortion.png", curves, title)
    log.info("the terms of the bound: %s", directory)
    options = {"decoder": run.config.bound.decoder, "bound_clip_x0": samplers.clips(run.config, run.config.bound)}
    figures = {**figures, "bound_steps": len(curves["t"]), "bound_examples": len(terms_nats), **options}
    return figures, terms_nats.astype(np.float64).sum(1)


def of_every_example(run: trained.Run, on_data: Callable[..., Any], heldout: Source, tile: int) -> Any:
    """`on_data(params, key, batch)`, a tree of [B, …], of every held-out example, `tile` per device at a time."""
    key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    size = tile * jax.device_count()

    def batches() -> Iterator[tuple[dict[str, np.ndarray]]]:
        for i, batch in enumerate(pipeline.in_order(heldout, size, workers=run.config.data.workers)):
            real = batch.pop("mask") > 0
            batch["index"] = batch["index"] + np.int32(i * size)
            yield ({name: rows[real] for name, rows in batch.items()},)

    tiled = devices.TiledMap(on_data, tile, replicated=2, name="examples")
    parts = list(tiled.stream((run.params, key), batches(), heldout.size))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def baseline(config: ConfigDict, heldout: Source) -> float:
    """bits/dim of a histogram per pixel, fitted on as many training examples as an evaluation may look at."""
    train = first_examples(sources.source(config, "train"), config.eval.max_examples)

    def images(source: Source) -> Iterator[np.ndarray]:
        for batch in pipeline.in_order(source, 256, workers=config.data.workers):
            yield batch["x0"][batch["mask"] > 0]

    return variational.histogram_bits_per_dim(images(train), images(heldout), config.data.levels)


def heldout_examples(config: ConfigDict) -> Source:
    """The held-out examples that a likelihood looks at."""
    return first_examples(sources.source(config, "heldout"), config.bound.num_examples or config.eval.max_examples)


def first_examples(source: Source, most: int) -> Source:
    """The source cut to its first examples, if it has more."""
    return source._replace(size=min(source.size, most))
