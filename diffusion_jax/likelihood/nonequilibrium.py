"""Bound K of Sohl-Dickstein et al. 2015: boundary terms, summary and curves.

    K = boundary - sum of the KLs, in nats per example,     boundary = H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T).

The null model is the prior itself, L_null = -H_p(x_T). The paper bounds the entropy of each reverse step,

    H_q(x_t | x_s) + H_q(x_s | x_0) - H_q(x_t | x_0)  <=  H_q(x_s | x_t)  <=  H_q(x_t | x_s),

and the cross-entropy of the model, -E log p(x_s | x_t), is the lower bound plus the KL.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.likelihood.variational import standard_error
from diffusion_jax.objective import bound
from diffusion_jax.process.base import Array, Entropies, Process, Schedule, StepCoefficients


class BoundaryTerms(NamedTuple):
    """Parts of K that do not depend on the model, in nats."""

    boundary: Any
    """H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T), [B]."""
    prior: Any
    """H_p(x_T), [B]."""
    steps: Entropies
    """Conditional entropies around every step, fields [B,N]."""


def make_boundary_terms(
    process: Process, schedule: Schedule, coefficients: StepCoefficients
) -> Callable[[Array], BoundaryTerms]:
    """Make the function x0 [B,*D] -> boundary terms of K, without random draws.

    coefficients: of the steps of a chain, fields [N].
    """

    def boundary_terms(x0: Array) -> BoundaryTerms:
        def entropies(step: StepCoefficients) -> Entropies:
            return process.entropies(jax.tree.map(lambda field: jnp.full(len(x0), field), step), x0)

        steps = jax.lax.map(entropies, jax.tree.map(lambda field: jnp.asarray(field, x0.dtype), coefficients))
        boundary = bound.K_boundary(process, schedule, coefficients, x0)
        return BoundaryTerms(boundary, process.prior_entropy(schedule, x0), jax.tree.map(jnp.transpose, steps))

    return boundary_terms


def paper_unit(shape: tuple[int, ...]) -> tuple[str, int]:
    """Return the paper's unit of K for data of a shape.

    Returns the name of the unit, and the number of units per example.
    """
    return ("bits/pixel", shape[0] * shape[1]) if len(shape) == 3 else ("bits/example", 1)


def summarise(kl: np.ndarray, terms: BoundaryTerms, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return K and its parts in the paper's units, with standard errors.

    kl: the KL of each step in nats [B,N]. terms: the boundary terms of the same examples. shape: of an example.
    """
    name, count = paper_unit(shape)
    nats = np.log(2) * count
    whole = (np.asarray(terms.boundary, np.float64) - np.asarray(kl, np.float64).sum(1)) / nats
    prior = np.asarray(terms.prior, np.float64).mean() / nats
    first, last = (np.asarray(part, np.float64).mean() / nats for part in (terms.steps.at[:, -1], terms.steps.at[:, 0]))
    return {
        "K_bits": float(whole.mean()),
        "K_stderr": float(standard_error(whole)),
        "K_minus_null_bits": float(whole.mean() + prior),
        "K_null_bits": float(-prior),
        "K_unit": name,
        "K_entropy_x1_given_x0_bits": float(first),
        "K_entropy_xT_given_x0_bits": float(last),
        "K_entropy_prior_bits": float(prior),
        "K_examples": len(whole),
    }


def curves(kl: np.ndarray, terms: BoundaryTerms, times: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return curves over the steps in the paper's units, without the step to x_0: [N - 1].

    t: start of the step. lower_bits, upper_bits: the paper's bounds on H_q(x_s | x_t). model_bits: cross-entropy of the
    model for x_s. kl_bits, kl_stderr: the KL of the step and its standard error.
    """
    nats = np.log(2) * paper_unit(shape)[1]
    kl = np.asarray(kl, np.float64)[:, :-1] / nats
    at, to, step = (np.asarray(part, np.float64)[:, :-1].mean(0) / nats for part in terms.steps)
    lower = step + to - at
    return {
        "t": times[:-1],
        "lower_bits": lower,
        "upper_bits": step,
        "model_bits": lower + kl.mean(0),
        "kl_bits": kl.mean(0),
        "kl_stderr": standard_error(kl),
    }


def nats_to_bits_per_dim(nats: float, dims: int, levels: int, std: float) -> float:
    """Convert a negative log density of unit-variance data to bits/dim of the unscaled data.

    -log2 p per dimension, plus for grey levels the width of unit variance in levels, log2(std (levels - 1)/2), where
    `std` is the standard deviation of the data in [-1, 1]. For bits (binomial process) pass levels = 0.
    """
    return nats / (dims * math.log(2)) + (math.log2(std * (levels - 1) / 2) if levels else 0.0)
