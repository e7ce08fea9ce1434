"""Variational bound on -log p(x0), term by term, for training and evaluation.

    -log p(x0) <= L_T + sum over the steps t -> s of a falling grid,      Reference: Ho et al. 2020, eq. 5.

        L_T = KL(q(x_1 | x0) || p(x_1)),
        a step to noise:    KL(q(x_s | x_t, x0) || p(x_s | x_t)),
        the step to s without noise:    -log p(x0 | x_t), the decoder's.

A schedule that still has noise at t = 0 gets one more step, from there to sigma = 0. That step does not use the
network: it decodes x_0 itself, N(x_0/alpha, sigma²/alpha²) (Kingma et al. 2021, section 3.3).

The bound K of Sohl-Dickstein et al. 2015 leaves the last step out, and counts in entropies (`K_term`, `K_boundary`):

    K = - sum over the steps to t = 1/T of KL + H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T),      their eq. 14.

Indices are steps of the chain there. K is at most -H(x_1): it does not count the information of x_0 beyond x_1.
"""

import math
from typing import Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Distribution, Level, Process, Schedule, StepCoefficients, expand


class StepTerm(Protocol):
    """Term of a variational bound that belongs to one step t -> s."""

    def __call__(self, coefficients: StepCoefficients, prediction: Prediction, x0: Array, x_t: Array, /) -> Array:
        """Return the term in nats [B].

        coefficients: of the step, fields [B]. prediction: at t, for x_t, a draw from q(x_t | x0).
        """


def step_term(process: Process, reverse: Reverse, decode: Decoder) -> StepTerm:
    """Term of the variational bound: the KL of a step. For a step to no noise, -log p(x0 | x_t)."""

    def term(coefficients: StepCoefficients, prediction: Prediction, x0: Array, x_t: Array) -> Array:
        mean, log_var = reverse(coefficients, prediction, x_t)
        kl = process.kl(process.posterior(coefficients, x0, x_t), (mean, log_var))
        nll = decoder_nll(decode, coefficients, (mean, log_var), x0, x_t)
        return jnp.where(jnp.isneginf(coefficients.to.log_sigma), nll, kl)

    return term


def decoder_nll(decode: Decoder, coefficients: StepCoefficients, model: Distribution, x0: Array, x_t: Array) -> Array:
    """Return -log p(x0 | x_t) in nats [B] of a step to no noise, with the moments of `decoder_moments`."""
    return decode(x0, *decoder_moments(coefficients.at, model, x_t)).reshape(len(x0), -1).sum(1)


def decoder_moments(at: Level, model: Distribution, x_t: Array) -> Distribution:
    """Return mean and log variance for the decoder of a step to no noise.

    They are those of `model`, the reverse kernel, where t > 0; at t = 0 they are x_0/alpha and log(sigma²/alpha²).
    """
    at_zero = expand(at.t <= 0, x_t)
    mean = jnp.where(at_zero, x_t * expand(jnp.exp(-at.log_alpha), x_t), model[0])
    return mean, jnp.where(at_zero, -expand(at.logsnr, x_t), model[1])


def kl_term(process: Process, reverse: Reverse) -> StepTerm:
    """Term of the variational bound without a decoder: the KL divergence of every step.

    For the binomial process the KL divergence of the step to s = 0 is -log p(x0 | x_t), so no decoder is needed.
    """

    def term(coefficients: StepCoefficients, prediction: Prediction, x0: Array, x_t: Array) -> Array:
        return process.kl(process.posterior(coefficients, x0, x_t), reverse(coefficients, prediction, x_t))

    return term


def K_term(process: Process, reverse: Reverse) -> StepTerm:
    """Term of the bound K: the KL of the step. 0 for the step to t = 0."""
    kl = kl_term(process, reverse)

    def term(coefficients: StepCoefficients, prediction: Prediction, x0: Array, x_t: Array) -> Array:
        return jnp.where(coefficients.to.t > 0, kl(coefficients, prediction, x0, x_t), 0)

    return term


def K_boundary(process: Process, schedule: Schedule, coefficients: StepCoefficients, x0: Array) -> Array:
    """Return the boundary terms of K, H_q(x_T | x_0) - H_q(x_1 | x_0) - H_p(x_T), in nats [B].

    coefficients: of the T steps of the chain, down to t = 0, fields [T].
    """

    def entropy_at(i: int) -> Array:
        step = jax.tree.map(lambda field: jnp.full(len(x0), field[i], x0.dtype), coefficients)
        return process.entropies(step, x0).at

    return entropy_at(0) - entropy_at(-1) - process.prior_entropy(schedule, x0)


def stop_mean_gradient(prediction: Prediction) -> Prediction:
    """Return the prediction with gradients through the head alone."""
    return jax.lax.stop_gradient(prediction)._replace(head=prediction.head)


def bits_per_dim(nats: Array, shape: tuple[int, ...]) -> Array:
    """Convert nats per example to bits per dimension; `shape` is the shape of an example."""
    return nats / (math.prod(shape) * math.log(2))
