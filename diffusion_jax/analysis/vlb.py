"""Variational bound (VLB) of a trained run on held-out data.

Every term, summary values and curves.

run = trained.load("runs/digits")
values, terms, curves = vlb.variational_bound(run)
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from diffusion_jax import files
from diffusion_jax.analysis import heldout
from diffusion_jax.analysis.estimators import Estimate, Evaluate, Results, dims, needs_plain_range
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source, subset
from diffusion_jax.experiment import objectives, paths, samplers, sources
from diffusion_jax.likelihood import variational
from diffusion_jax.process.base import Array, example_keys
from diffusion_jax.runs import plots, trained
from diffusion_jax.runs.trained import Run

log = logging.getLogger(__name__)

ACTIVE = 0.01
"""KL in nats above which a latent counts as used."""


def estimator(run: Run) -> Evaluate:
    """Estimator: `report_bound`, with one network call per step of the chain."""
    needs_plain_range("--likelihood=vlb", run)
    objectives.decoder(run.config)
    if run.experiment.terms is None:
        process, path = run.experiment.process, run.experiment.schedule
        paths.chain_coefficients(run.config, process, path, run.config.bound.num_steps)

    def evaluate() -> Results:
        values, nats = report_bound(run)
        return values, [Estimate("vlb", variational.to_bits(nats, dims(run)), values["bound_steps"])]

    return evaluate


def variational_bound(run: Run) -> tuple[dict[str, float], variational.BoundTerms, dict[str, np.ndarray]]:
    """Return the bound as config.bound describes it.

    Returns values by name, the terms of every example, and curves. `variational.summarise` and `variational.curves`
    describe the values and curves. For data with grey levels there is also `baseline_bits_per_dim`, of independent
    pixels.
    """
    examples = heldout.heldout_examples(run.config)
    terms, times = bound_terms(run, examples)
    values = variational.summarise(terms, dims(run))
    if run.config.data.levels and (train := sources.train_or_none(run.config, "baseline_bits_per_dim")):
        values["baseline_bits_per_dim"] = baseline(run.config, train, examples)
    return values, terms, variational.curves(terms, times, dims(run))


def bound_terms(run: Run, examples: Source, steps: Any = None) -> tuple[variational.BoundTerms, np.ndarray]:
    """Return the terms of the bound per example, and the times of the steps [N].

    steps: some of the bound's, fields [N]; None: the steps that config.bound describes.
    """
    config, experiment = run.config, run.experiment
    options = config.bound
    if experiment.terms is not None:
        return one_step(run, examples), np.ones(1)
    rows = steps
    if rows is None:
        rows = paths.chain_coefficients(config, experiment.process, experiment.schedule, options.num_steps)(None)
    predict = samplers.in_bound(config, experiment.predict)
    step_term = objectives.vlb_term(config, experiment.process, experiment.reverse)
    terms_of = variational.make_terms(predict, experiment.process, experiment.schedule, step_term, rows)
    into = sources.make_to_model(config)

    def on_batch(params: Any, key: Array, batch: dict[str, Array]) -> variational.BoundTerms:
        keys = example_keys(key, batch["index"])
        return terms_of(params, key, batch | {"x0": into(batch["x0"], keys)})

    return heldout.map_batches(run, on_batch, examples), np.asarray(rows.at.t)


def one_step(run: Run, examples: Source) -> variational.BoundTerms:
    """Return the terms of the bound of an autoencoder. It is a chain of one step, whose KL is `prior`."""
    terms_of = run.experiment.terms
    assert terms_of is not None

    def on_batch(params: Any, key: Array, batch: dict[str, Array]) -> variational.BoundTerms:
        keys = example_keys(key, batch["index"])
        found = terms_of(params, run.experiment.to_model(batch["x0"], keys), keys)
        kl = found.kl.reshape(len(keys), -1).sum(1)
        return variational.BoundTerms(kl, found.nll[:, None], found.mse[:, None])

    return heldout.map_batches(run, on_batch, examples)


def latent_kl(run: Run) -> dict[str, float]:
    """Return the KL of each latent channel, and the number of active latents.

    In nats; active latents are above ACTIVE.
    """
    terms_of = run.experiment.terms
    if terms_of is None:
        return {}

    def on_batch(params: Any, key: Array, batch: dict[str, Array]) -> Array:
        keys = example_keys(key, batch["index"])
        return terms_of(params, run.experiment.to_model(batch["x0"], keys), keys).kl

    kl = heldout.map_batches(run, on_batch, heldout.heldout_examples(run.config)).astype(np.float64).mean(0)
    channels = kl.reshape(-1, kl.shape[-1]).sum(0)
    return {f"kl_nats_channel_{i}": float(nats) for i, nats in enumerate(channels)} | {
        "latents": kl.size,
        "active_latents": int((kl > ACTIVE).sum()),
    }


def report_bound(run: Run) -> tuple[dict[str, Any], np.ndarray]:
    """Compute the bound and write vlb.npz, vlb.png and rate_distortion.png beside the other results.

    An autoencoder has one step, and no pictures.

    vlb.npz: the curves by name; `terms_nats` [examples, 1 + N], L_T first, and `mse` [examples, N]. Returns values by
    name, and the bound of every example in nats [examples].
    """
    values, terms, curves = variational_bound(run)
    directory = trained.evaluation_directory(run)
    terms_nats = np.concatenate([terms.prior[:, None], terms.steps], axis=1)
    files.save_npz(directory / "vlb.npz", {"terms_nats": terms_nats, "mse": terms.mse, **curves})
    title = f"{epath.Path(run.workdir).name}: {values['bits_per_dim']:.3f} bits/dim"
    if run.experiment.terms is None:  # one step is no curve
        plots.bound_terms(directory / "vlb.png", curves, title)
        plots.rate_distortion(directory / "rate_distortion.png", curves, title)
    log.info("the terms of the bound: %s", directory)
    values = {**values, "bound_steps": len(curves["t"]), "bound_examples": len(terms_nats), **latent_kl(run)}
    if run.experiment.terms is not None or run.experiment.process.gaussian:  # other processes end at the data
        clips = run.experiment.terms is None and samplers.clips_x0(run.config, run.config.bound)
        values |= {"decoder": run.config.bound.decoder, "bound_clip_x0": clips}
    return values, terms_nats.astype(np.float64).sum(1)


def baseline(config: ConfigDict, train: Source, examples: Source) -> float:
    """Return the bits/dim of a histogram per pixel, fitted on eval.max_examples training examples."""
    train = subset(train, config.eval.max_examples)

    def images(source: Source) -> Iterator[np.ndarray]:
        for batch in pipeline.in_order(source, 256, workers=config.data.workers):
            yield batch["x0"][batch["mask"] > 0]

    return variational.histogram_bits_per_dim(images(train), images(examples), config.data.levels)
