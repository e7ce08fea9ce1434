"""The variational bound on -log p(x0), term by term: the same terms are trained on and reported.

    -log p(x0) <= L_T + sum over the steps t -> s of a falling grid,      Source: Ho et al. 2020, eq. 5.

        L_T = KL(q(x_1 | x0) || p(x_1)),
        a step to noise:    KL(q(x_s | x_t, x0) || p(x_s | x_t)),
        the step to s without noise:    -log p(x0 | x_t), the decoder's.

A schedule that still has noise at t = 0 gets one more row, from there to sigma = 0. No network is asked there: what is
left to say is read off x_0 itself, N(x_0/alpha, sigma²/alpha²) (Kingma et al. 2021, section 3.3).

The bound K of Sohl-Dickstein et al. 2015 leaves the last step out, and counts in entropies (`K_term`, `K_ends`):

    K = - sum over the steps to t = 1/T of KL + H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T),      their eq. 14.

Indices are steps of the chain there. K is at most -H(x_1), since what x_1 does not say of x_0 is not asked for.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Process, Schedule, expand

StepTerm = Callable[[Any, Prediction, Array, Array], Array]
"""`term(row, prediction, x0[B,*D], x_t[B,*D]) -> nats[B]`, a row's fields being [B]."""


def step_term(process: Process, reverse: Reverse, decode: Decoder) -> StepTerm:
    """The term of a step, from what the model predicts at its start."""

    def term(row: Any, prediction: Prediction, x0: Array, x_t: Array) -> Array:
        mean, log_var = reverse(row, prediction, x_t)
        kl = process.kl(process.posterior(row, x0, x_t), (mean, log_var))
        nll = decoded(decode, row, (mean, log_var), x0, x_t)
        return jnp.where(jnp.isneginf(row.to.log_sigma), nll, kl)

    return term


def decoded(decode: Decoder, row: Any, law: tuple[Array, Array], x0: Array, x_t: Array) -> Array:
    """-log p(x0 | x_t) in nats [B] of a step to no noise; its law (mean, log_var) is the network's only where t > 0."""
    at_zero = expand(row.at.t <= 0, x_t)
    mean = jnp.where(at_zero, x_t * expand(jnp.exp(-row.at.log_alpha), x_t), law[0])
    log_var = jnp.where(at_zero, -expand(row.at.logsnr, x_t), law[1])
    return decode(x0, mean, log_var).reshape(len(x0), -1).sum(1)


def kl_term(process: Process, reverse: Reverse) -> StepTerm:
    """The KL of a step as it is. Of bits it serves to the end: at s = 0 it is -log p(x0 | x_t)."""

    def term(row: Any, prediction: Prediction, x0: Array, x_t: Array) -> Array:
        return process.kl(process.posterior(row, x0, x_t), reverse(row, prediction, x_t))

    return term


def K_term(process: Process, reverse: Reverse) -> StepTerm:
    """The KL of a step, or 0 for the step to t = 0."""
    kl = kl_term(process, reverse)

    def term(row: Any, prediction: Prediction, x0: Array, x_t: Array) -> Array:
        return jnp.where(row.to.t > 0, kl(row, prediction, x0, x_t), 0)

    return term


def K_ends(process: Process, schedule: Schedule, rows: Any, x0: Array) -> Array:
    """H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T) in nats [B]; rows: the T steps of the chain, down to t = 0."""
    first, last = (jax.tree.map(lambda field, i=i: jnp.full(len(x0), field[i], x0.dtype), rows) for i in (0, -1))
    at = [process.entropies(row, x0).at for row in (first, last)]
    return at[0] - at[1] - process.prior_entropy(schedule, x0)


def stop_mean(prediction: Prediction) -> Prediction:
    """The prediction with gradients through the head alone."""
    return jax.lax.stop_gradient(prediction)._replace(head=prediction.head)


def bits_per_dim(nats: Array, shape: tuple[int, ...]) -> Array:
    """nats per example as bits per dimension of data of a shape (without the batch)."""
    return nats / (math.prod(shape) * math.log(2))
