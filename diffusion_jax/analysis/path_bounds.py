"""Importance-weighted bounds of a trained run on held-out data, from K paths per example."""

import itertools
from typing import Any

from diffusion_jax.analysis import heldout
from diffusion_jax.analysis.estimators import Estimate, Evaluate, Results, dims, needs_gaussian
from diffusion_jax.experiment import objectives, paths, samplers
from diffusion_jax.likelihood import path_bound
from diffusion_jax.likelihood.variational import to_bits
from diffusion_jax.objective.prediction import clip_x0
from diffusion_jax.runs.trained import Run


def estimator(run: Run) -> Evaluate:
    """Estimator: `path_bound.importance_bound` for each number of paths in config.bound.paths."""
    config, experiment = run.config, run.experiment
    needs_gaussian("--likelihood=multi", run)
    numbers = tuple(config.bound.paths)
    if not numbers or min(numbers) < 1 or any(more % less for less, more in itertools.pairwise(numbers)):
        raise ValueError(f"bound.paths={numbers}: each number must divide the next, as in (1, 4, 16)")
    rows = paths.chain_coefficients(config, experiment.process, experiment.schedule, config.bound.num_steps)(None)
    predict = clip_x0(experiment.predict) if samplers.clips_x0(config, config.bound) else experiment.predict
    decode = objectives.decoder(config)
    weights_of = path_bound.make_path_weights(
        predict, experiment.process, experiment.schedule, experiment.reverse, decode, lambda params: rows
    )

    def evaluate() -> Results:
        nats = heldout.map_copies(run, weights_of, numbers[-1], "paths")
        values: dict[str, Any] = path_bound.summarise(nats, numbers, dims(run))
        steps = len(rows.at.t)
        estimates = [
            Estimate(f"multi_{k}", to_bits(path_bound.importance_bound(nats, k), dims(run)), k * steps) for k in numbers
        ]
        return {**values, "multi_examples": len(nats), "multi_steps": steps}, estimates

    return evaluate
