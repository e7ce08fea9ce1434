"""Bound K of Sohl-Dickstein et al. 2015 on held-out data, in the units of the paper."""

import logging
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from diffusion_jax import files
from diffusion_jax.analysis import heldout
from diffusion_jax.analysis.estimators import Evaluate, Results, dims
from diffusion_jax.experiment import paths, sources
from diffusion_jax.likelihood import nonequilibrium, variational
from diffusion_jax.objective.bound import K_term
from diffusion_jax.process.base import Array, example_keys
from diffusion_jax.runs import plots, trained
from diffusion_jax.runs.trained import Run

log = logging.getLogger(__name__)


def estimator(run: Run) -> Evaluate:
    """Estimator `bound_K`, with its curves in K.npz and K.png.

    It has no row in the table, as K has units of its own.
    """
    steps = run.config.process.num_steps
    if steps < 2:
        raise ValueError(f"--likelihood=K: needs process.num_steps of at least 2 (got {steps}), as K has T - 1 terms")
    paths.K_coefficients(run.config, run.experiment.process, run.experiment.schedule)

    def evaluate() -> Results:
        values, curves = bound_K(run)
        directory = trained.evaluation_directory(run)
        files.save_npz(directory / "K.npz", curves)
        title = f"{epath.Path(run.workdir).name}: K = {values['K_bits']:.3f} {values['K_unit']}"
        plots.entropy_bounds(directory / "K.png", curves, title, values["K_unit"])
        log.info("the terms of K: %s", directory)
        return values, []

    return evaluate


def bound_K(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return K from all steps of the chain for every example.

    Returns values by name, and curves. `nonequilibrium` describes the values and curves; the entropies of the data
    are added where they are known.
    """
    config, experiment = run.config, run.experiment
    process, schedule = experiment.process, experiment.schedule(None)
    rows = paths.K_coefficients(config, process, experiment.schedule)(None)
    into = sources.make_to_model(config)
    terms_of = variational.make_terms(
        experiment.predict, process, experiment.schedule, K_term(process, experiment.reverse), rows
    )
    boundary_of = nonequilibrium.make_boundary_terms(process, schedule, rows)
    is_gaussian = process.gaussian

    def on_batch(params: Any, key: Array, batch: dict[str, Array]) -> tuple[Array, nonequilibrium.BoundaryTerms, Array]:
        x0 = into(batch["x0"], example_keys(key, batch["index"]))
        moment = (
            jnp.square(x0).reshape(len(x0), -1).mean(1) if is_gaussian else (1 + x0).reshape(len(x0), -1).mean(1) / 2
        )
        return terms_of(params, key, batch | {"x0": x0}).steps, boundary_of(x0), moment

    kl, boundary, moments = heldout.map_batches(run, on_batch, heldout.heldout_examples(config))
    shape = tuple(config.data.shape)
    values = nonequilibrium.summarise(kl, boundary, shape)
    nats = -values["K_bits"] * np.log(2) * nonequilibrium.paper_unit(shape)[1]
    levels = config.data.levels if is_gaussian else 0
    values["K_bits_per_dim"] = nonequilibrium.nats_to_bits_per_dim(nats, dims(run), levels, config.data.std)
    expected = 1.0 if is_gaussian else getattr(process, "rate", None)
    if expected is not None:
        moment = values["K_data_moment"] = float(moments.mean())
        if abs(moment - expected) > 0.02 * expected + 4 * float(np.nan_to_num(variational.standard_error(moments))):
            name = "second moment of the data" if is_gaussian else "rate of the bits"
            values["K_note"] = f"K bounds the likelihood of x0 only for a {name} of {expected:g} (got {moment:.3f})"
    values |= sources.exact_entropies(config, process, schedule)
    if "negative_entropy_x0_bits" in values:
        values["K_gap_bits"] = values["negative_entropy_x0_bits"] - values["K_bits"]
    return values, nonequilibrium.curves(kl, boundary, np.asarray(rows.at.t), shape)
