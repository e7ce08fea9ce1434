"""Likelihood estimators of --likelihood, side by side on the same held-out examples.

    vlb     variational bound, term by term (vlb.py)
    multi   importance-weighted bound from K paths, tighter for larger K (path_bounds.py)
    ode     likelihood of the probability-flow ODE (ode_bits.py)
    K       bound of Sohl-Dickstein et al. 2015, in the units of that paper (k_bound.py)

As all use the same examples, the differences between them have smaller errors than each alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from diffusion_jax.analysis import k_bound, ode_bits, path_bounds, tables, vlb
from diffusion_jax.analysis.estimators import Estimate, Estimator
from diffusion_jax.experiment import choices, sources
from diffusion_jax.likelihood.variational import standard_error
from diffusion_jax.runs.trained import Run

ESTIMATORS: dict[str, Estimator] = {
    "vlb": vlb.estimator,
    "multi": path_bounds.estimator,
    "ode": ode_bits.estimator,
    "K": k_bound.estimator,
}
"""The values of --likelihood, which may name several, separated by commas."""


def parse_names(names: str) -> list[str]:
    """Return the estimators in "vlb,multi,ode", each once. Raises ValueError for an unknown one."""
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in chosen:
        choices.choose("--likelihood", name, ESTIMATORS)
    return chosen


def prepare_likelihoods(run: Run, names: Sequence[str]) -> Callable[[], tuple[dict[str, Any], str]]:
    """Check everything before any work; return a function that estimates the likelihoods.

    The function returns values by name, and a table. The values hold the mean difference of each estimate from the
    first, example by example. Raises ValueError if an estimator does not suit the run, or the run has no held-out data.
    """
    if names:
        sources.heldout(run.config)
    evaluations = [ESTIMATORS[name](run) for name in names]

    def evaluate() -> tuple[dict[str, Any], str]:
        values: dict[str, Any] = {}
        estimates: list[Estimate] = []
        for evaluation in evaluations:
            more_values, more_estimates = evaluation()
            values |= more_values
            estimates += more_estimates
        for estimate in estimates[1:]:
            difference = estimate.bits - estimates[0].bits
            key = f"{estimate.name}_minus_{estimates[0].name}_bits_per_dim"
            values |= {key: float(difference.mean()), f"{key}_stderr": float(standard_error(difference))}
        return values, table(estimates)

    return evaluate


def table(estimates: Sequence[Estimate]) -> str:
    """Return the estimates as a Markdown table; "" if there are none."""
    if not estimates:
        return ""
    first = estimates[0]
    rows = []
    for estimate in estimates:
        difference = estimate.bits - first.bits
        rows.append(
            [
                estimate.name,
                f"{estimate.bits.mean():.4f} ± {standard_error(estimate.bits):.4f}",
                "" if estimate is first else f"{difference.mean():+.4f} ± {standard_error(difference):.4f}",
                f"{len(estimate.bits)}",
                f"{estimate.calls:,.0f}",
            ]
        )
    return tables.markdown(["likelihood", "bits/dim", f"minus {first.name}", "examples", "network calls each"], rows)
