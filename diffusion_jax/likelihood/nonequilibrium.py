"""How many bits does the bound K of Sohl-Dickstein et al. 2015 grant? Its terms, its ends, and what no step can beat.

    K = ends - sum of the KLs, in nats of an example,     ends = H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T).

The null model is the prior itself, L_null = -H_p(x_T). Of each step the paper bounds what the reverse step has to say,

    H_q(x_t | x_s) + H_q(x_s | x_0) - H_q(x_t | x_0)  <=  H_q(x_s | x_t)  <=  H_q(x_t | x_s),

and what the model says of it, the cross-entropy -E log p(x_s | x_t), is the lower bound plus the KL.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.likelihood.variational import standard_error
from diffusion_jax.objective import bound
from diffusion_jax.process.base import Array, Entropies, Process, Schedule


class Ends(NamedTuple):
    """What of K is known without the model, in nats; [B], and [B,N] for the steps."""

    ends: Any
    """H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T)."""
    prior: Any
    """H_p(x_T)."""
    steps: Entropies
    """Of every step."""


def make_ends(process: Process, schedule: Schedule, rows: Any) -> Callable[[Array], Ends]:
    """Build `ends(x0[B,*D]) -> Ends` for the steps of a chain; nothing is drawn."""

    def ends(x0: Array) -> Ends:
        def of_step(row: Any) -> Entropies:
            return process.entropies(jax.tree.map(lambda field: jnp.full(len(x0), field), row), x0)

        steps = jax.lax.map(of_step, jax.tree.map(lambda field: jnp.asarray(field, x0.dtype), rows))
        at_ends = bound.K_boundary(process, schedule, rows, x0)
        return Ends(at_ends, process.prior_entropy(schedule, x0), jax.tree.map(jnp.transpose, steps))

    return ends


def unit(shape: tuple[int, ...]) -> tuple[str, int]:
    """The unit in which the paper gives K of data of a shape, and how many of them an example has."""
    return ("bits/pixel", shape[0] * shape[1]) if len(shape) == 3 else ("bits/example", 1)


def summarise(kl: np.ndarray, ends: Ends, shape: tuple[int, ...]) -> dict[str, Any]:
    """K and its parts in the paper's units, with the standard error over the examples. kl: nats [B,N]."""
    name, count = unit(shape)
    nats = np.log(2) * count
    whole = (np.asarray(ends.ends, np.float64) - np.asarray(kl, np.float64).sum(1)) / nats
    prior = np.asarray(ends.prior, np.float64).mean() / nats
    first, last = (np.asarray(part, np.float64).mean() / nats for part in (ends.steps.at[:, -1], ends.steps.at[:, 0]))
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


def curves(kl: np.ndarray, ends: Ends, times: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What to draw, per step [N - 1] in the order of the steps, the one to x_0 left out, in the paper's units.

    t: where the step starts. lower_bits, upper_bits: the paper's bounds on H_q(x_s | x_t). model_bits: what the model
    needs for x_s. kl_bits, kl_stderr: the KL of the step.
    """
    nats = np.log(2) * unit(shape)[1]
    kl = np.asarray(kl, np.float64)[:, :-1] / nats
    at, to, step = (np.asarray(part, np.float64)[:, :-1].mean(0) / nats for part in ends.steps)
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
    """A negative log density of unit-variance data as bits/dim of what they were: x is `std` wide in [-1, 1].

    -log2 p per dimension, and for grey levels the width of unit variance in levels, log2(std (levels - 1)/2). Bits
    (levels = 2 of the binomial process) have no width; there take levels = 0.
    """
    return nats / (dims * math.log(2)) + (math.log2(std * (levels - 1) / 2) if levels else 0.0)
