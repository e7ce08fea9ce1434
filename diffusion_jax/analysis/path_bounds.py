"""Importance-weighted bounds of a trained run on held-out data, from K paths per example."""

import itertools
from typing import Any

from diffusion_jax.analysis import heldout
from diffusion_jax.analysis.estimators import Estimate, Evaluate, Results, dims, needs_gaussian, needs_plain_range
from diffusion_jax.experiment import objectives, paths, samplers
from diffusion_jax.likelihood import path_bound
from diffusion_jax.likelihood.variational import to_bits
from diffusion_jax.process.base import Array
from diffusion_jax.runs.trained import Run


def estimator(run: Run) -> Evaluate:
    """Estimator: `path_bound.importance_bound` for each number of paths in config.bound.paths."""
    config, experiment = run.config, run.experiment
    (needs_gaussian if experiment.terms is None else needs_plain_range)("--likelihood=multi", run)
    numbers = tuple(config.bound.paths)
    if not numbers or min(numbers) < 1 or any(more % less for less, more in itertools.pairwise(numbers)):
        raise ValueError(f"bound.paths={numbers}: each number must divide the next, as in (1, 4, 16)")
    weights_of, steps = (path_weights if experiment.terms is None else latent_weights)(run)

    def evaluate() -> Results:
        nats = heldout.map_copies(run, weights_of, numbers[-1], "paths")
        values: dict[str, Any] = path_bound.summarise(nats, numbers, dims(run))
        estimates = [
            Estimate(f"multi_{k}", to_bits(path_bound.importance_bound(nats, k), dims(run)), k * steps) for k in numbers
        ]
        return {**values, "multi_examples": len(nats), "multi_steps": steps}, estimates

    return evaluate


def path_weights(run: Run) -> tuple[path_bound.PathWeights, int]:
    """Return the weights of paths of a chain, and its number of steps."""
    config, experiment = run.config, run.experiment
    rows = paths.chain_coefficients(config, experiment.process, experiment.schedule, config.bound.num_steps)(None)
    predict = samplers.in_bound(config, experiment.predict)
    decode = objectives.decoder(config)
    weights_of = path_bound.make_path_weights(
        predict, experiment.process, experiment.schedule, experiment.reverse, decode, lambda params: rows
    )
    return weights_of, len(rows.at.t)


def latent_weights(run: Run) -> tuple[path_bound.PathWeights, int]:
    """Return the path weights of an autoencoder, as of a chain of one step."""
    terms_of = run.experiment.terms
    assert terms_of is not None

    def weights_of(params: Any, keys: Array, x0: Array, label: Array | None = None) -> Array:
        found = terms_of(params, x0, keys)
        return found.nll + found.log_ratio

    return weights_of, 1
