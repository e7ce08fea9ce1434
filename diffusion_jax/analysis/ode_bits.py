"""Likelihood of held-out data by the probability-flow ODE of a trained run."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.analysis import heldout
from diffusion_jax.analysis.estimators import Estimate, Evaluate, Results, dims, needs_gaussian
from diffusion_jax.experiment import choices, objectives, paths
from diffusion_jax.likelihood import ode_likelihood
from diffusion_jax.likelihood.variational import standard_error, to_bits
from diffusion_jax.process.base import Array, level, split_all
from diffusion_jax.runs import trained
from diffusion_jax.runs.trained import Run
from diffusion_jax.sampling import flow


def estimator(run: Run) -> Evaluate:
    """Estimator: `ode_likelihood`, as config.ode describes it.

    ode_bits_per_dim is the sum of ode_prior (-log p of x at t = 1), ode_volume (minus the log-determinant of the flow)
    and the terms of the dequantisation. Each of eval.passes draws new noise and probes. Raises FloatingPointError if
    the ODE cannot be solved to its tolerance in the allowed calls.
    """
    config, experiment = run.config, run.experiment
    options = config.ode
    needs_gaussian("--likelihood=ode", run)
    if objectives.target_facts(config).chain:
        raise ValueError(
            f"--likelihood=ode: needs a prediction at every level, not only on the chain as "
            f"prediction.target={config.prediction.target!r}. Use vlb"
        )
    flow.check(options.rtol, options.atol, options.max_calls, "ode")
    choices.choose("ode.trace", options.trace, ode_likelihood.PROBES)
    law = choices.choose("ode.law", options.law, ode_likelihood.TERMINAL_LOG_DENSITIES)
    make = choices.choose("ode.dequantisation", options.dequantisation, ode_likelihood.DEQUANTISATIONS)
    decode = objectives.decoder(config) if options.dequantisation == "process" else None
    dequantise = make(config.data.levels, decode)
    min_t = paths.lowest_time(config, experiment.schedule, options.min_t)
    density_of = ode_likelihood.make_density(
        experiment.predict, experiment.schedule, min_t, options.rtol, options.atol, options.max_calls, options.trace,
        options.probes, law,
    )  # fmt: skip

    def parts_of(params: Any, keys: Array, x0: Array, label: Array) -> dict[str, Array]:
        key_noise, key_probes = split_all(keys)
        at = level(experiment.schedule(params), jnp.full((), min_t, x0.dtype))
        x, terms = dequantise(at, key_noise, x0)
        density = density_of(params, key_probes, x, label)
        several = density.volume.shape[1] > 1
        return terms | {
            "prior": -density.terminal,
            "volume": -density.volume.mean(1),
            "probe_var": density.volume.var(1, ddof=1) if several else jnp.full(len(x0), jnp.nan),
            "calls": density.calls,
            "ok": density.ok,
        }

    return functools.partial(_evaluate, run, parts_of, min_t)


def _evaluate(run: Run, parts_of: heldout.OnExamples, min_t: float) -> Results:
    config, options = run.config, run.config.ode
    parts = heldout.map_copies(run, parts_of, config.eval.passes, "ODEs")
    calls, ok, probe_var = parts.pop("calls"), parts.pop("ok"), parts.pop("probe_var")
    if not ok.all():
        trained.check_weights(run)
        raise FloatingPointError(
            f"--likelihood=ode: {(~ok).sum()} of {ok.size} examples cannot be solved to rtol={options.rtol:g}, "
            f"atol={options.atol:g} in {options.max_calls} network calls. Raise ode.max_calls, or ode.rtol and ode.atol"
        )
    bits = {name: to_bits(np.asarray(nats, np.float64), dims(run)).mean(1) for name, nats in parts.items()}
    total = np.sum(list(bits.values()), axis=0)
    values: dict[str, Any] = {
        "ode_bits_per_dim": float(total.mean()),
        "ode_bits_per_dim_stderr": float(standard_error(total)),
        **{f"ode_{name}_bits_per_dim": float(part.mean()) for name, part in bits.items()},
    }
    if options.trace != "exact" and options.probes > 1:  # the part of the error that more probes would remove
        of_mean = np.sqrt(probe_var.mean() / options.probes / probe_var.size)
        values["ode_probes_bits_per_dim_stderr"] = float(to_bits(of_mean, dims(run)))
    values |= {"ode_calls": float(calls.mean()), "ode_most_calls": int(calls.max()), "ode_examples": len(total)}
    values |= {"ode_min_t": min_t, "ode_trace": options.trace, "ode_dequantisation": options.dequantisation}
    return values, [Estimate("ode", total, float(calls.sum(1).mean()))]
