"""Gaussian process: q(x_t | x0) = N(alpha x0, sigma² I), in closed form.

With lambda = logsnr and the conditional scales of x_t given x_s (s < t),

    alpha_ts = alpha_t / alpha_s,      sigma_ts² = sigma_t² - alpha_ts² sigma_s² = -sigma_t² expm1(lambda_t - lambda_s),

the posterior is

    q(x_s | x_t, x0) = N(alpha_ts sigma_s²/sigma_t² x_t + alpha_s sigma_ts²/sigma_t² x0,  sigma_ts² sigma_s²/sigma_t²).

Reference: Ho et al. 2020, eq. 6-7, for t = k/T of a chain; Kingma et al. 2021, appendix A.2, for any schedule.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from diffusion_jax.process.base import Array, Entropies, Level, Schedule, expand, level, normal


class GaussianCoefficients(NamedTuple):
    """Coefficients of a step t -> s of the Gaussian process.

    Fields are scalar, [B], or [N] for a time grid.
    """

    at: Level
    """Level of t, the start of the step."""
    to: Level
    """Level of s < t, the end of the step."""
    x0_scale: Array
    """Coefficient of x0 in the posterior mean."""
    x_t_scale: Array
    """Coefficient of x_t in the posterior mean."""
    log_var_small: Array
    """log of the posterior variance (beta-tilde of a chain): the reverse variance if the data were one point. Where it
    is 0, at a step that ends without noise, it takes the value of the step before, as Ho's code has it."""
    log_var_large: Array
    """log sigma_ts² (beta of a chain): the reverse variance if the data were N(0, I)."""
    log_alpha_ratio: Array
    """log(alpha_s / alpha_t), at least 0; inf where nothing of x0 is left at t."""
    log_sigma_ratio: Array
    """log(sigma_s / sigma_t), at most 0; -inf where the step ends without noise."""

    @property
    def h(self) -> Array:
        """Length of the step in log(alpha/sigma), half the logsnr. inf from or to an infinite logsnr."""
        return self.log_alpha_ratio - self.log_sigma_ratio


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Gaussian process, an implementation of `base.Process`.

    Coefficients are `GaussianCoefficients`, distributions (mean, log_var).
    """

    gaussian: ClassVar[bool] = True
    draws_x0: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    levels: ClassVar[int] = 0

    def prior(self, schedule: Schedule, keys: Array, shape: tuple[int, ...]) -> Array:
        """Draw from N(0, alpha² + sigma²) at t = 1, the marginal of unit-variance data.

        This is N(0, I) if the schedule preserves the variance. keys: [B], one per example. shape: of an example.
        """
        end = level(schedule, jnp.ones(()))
        return jnp.hypot(end.alpha, end.sigma) * normal(keys, shape, end.t.dtype)

    def prior_kl(self, schedule: Schedule, x0: Array) -> Array:
        """Return KL(N(alpha x0, sigma²) || N(0, alpha² + sigma²)) at t = 1 in nats [B].

        Reference: L_T of Ho et al. 2020, eq. 5.
        """
        end = level(schedule, jnp.ones((), x0.dtype))
        zero = jnp.zeros_like(x0)
        log_var = 2 * jnp.log(jnp.hypot(end.alpha, end.sigma))
        return self.kl((end.alpha * x0, zero + 2 * end.log_sigma), (zero, zero + log_var))

    def prior_entropy(self, schedule: Schedule, x0: Array) -> Array:
        """Return the entropy of the prior, 1/2 (1 + log 2 pi var) nats per dimension, [B]."""
        end = level(schedule, jnp.ones(len(x0), x0.dtype))
        return _entropy(2 * jnp.log(jnp.hypot(end.alpha, end.sigma)), x0)

    def corrupt(self, level: Level, x0: Array, noise: Array) -> Array:
        """Return x_t = alpha x0 + sigma noise."""
        return expand(level.alpha, x0) * x0 + expand(level.sigma, x0) * noise

    def coefficients(self, schedule: Schedule, times: Array) -> GaussianCoefficients:
        """Return the coefficients [N] of a falling time grid [N+1], in the dtype of `times`.

        A step that ends without noise has the small variance of the step before, and a single such step the large one.
        """
        steps = step_coefficients(level(schedule, times[:-1]), level(schedule, times[1:]))
        small = steps.log_var_small
        before = jnp.concatenate([small[:1], small[:-1]])
        before = jnp.where(jnp.isneginf(before), steps.log_var_large, before)
        return steps._replace(log_var_small=jnp.where(jnp.isneginf(small), before, small))

    def posterior(self, coefficients: GaussianCoefficients, x0: Array, x_t: Array) -> tuple[Array, Array]:
        """Return q(x_s | x_t, x0) as (mean [B,*D], log_var [B,1,...])."""
        mean = expand(coefficients.x0_scale, x_t) * x0 + expand(coefficients.x_t_scale, x_t) * x_t
        return mean, expand(coefficients.log_var_small, x_t)

    def kl(self, p: tuple[Array, Array], q: tuple[Array, Array]) -> Array:
        """Return KL(p || q) in nats [B], summed over the data dimensions.

        KL = 1/2 (log v_q - log v_p + v_p/v_q + (m_p - m_q)²/v_q - 1) per dimension.
        """
        (mean_p, log_var_p), (mean_q, log_var_q) = p, q
        ratio = log_var_p - log_var_q
        nats = 0.5 * (jnp.expm1(ratio) - ratio + (mean_p - mean_q) ** 2 * jnp.exp(-log_var_q))
        shape = jnp.broadcast_shapes(nats.shape, jnp.shape(mean_p))
        return jnp.broadcast_to(nats, shape).reshape(shape[0], -1).sum(1)

    def draw(self, distribution: tuple[Array, Array], noise: Array) -> Array:
        """Return mean + sqrt(var) noise."""
        return draw(distribution, noise)

    def entropies(self, coefficients: GaussianCoefficients, x0: Array) -> Entropies:
        """Return the entropies of sigma_t², sigma_s² and sigma_ts², which do not depend on the data."""
        log_vars = 2 * coefficients.at.log_sigma, 2 * coefficients.to.log_sigma, coefficients.log_var_large
        return Entropies(*(_entropy(log_var, x0) for log_var in log_vars))


def step_coefficients(at: Level, to: Level) -> GaussianCoefficients:
    """Return the coefficients of single steps at -> to, elementwise.

    log_var_small is -inf where s is noiseless.
    """
    log_share = jnp.log(-jnp.expm1(at.logsnr - to.logsnr))  # log of sigma_ts² / sigma_t², the share of fresh noise
    return GaussianCoefficients(
        at=at,
        to=to,
        x0_scale=jnp.exp(to.log_alpha + log_share),
        x_t_scale=jnp.exp(at.log_alpha - to.log_alpha + 2 * (to.log_sigma - at.log_sigma)),
        log_var_small=log_share + 2 * to.log_sigma,
        log_var_large=log_share + 2 * at.log_sigma,
        log_alpha_ratio=to.log_alpha - at.log_alpha,
        log_sigma_ratio=to.log_sigma - at.log_sigma,
    )


def draw(distribution: tuple[Array, Array], noise: Array) -> Array:
    """Return mean + sqrt(var) noise, of a distribution (mean, log_var)."""
    mean, log_var = distribution
    return mean + jnp.exp(0.5 * log_var) * noise


def _entropy(log_var: Array, x0: Array) -> Array:
    """Return the entropy of N(·, var I) in the dimensions of x0 [B,*D], in nats [B]."""
    return jnp.broadcast_to(0.5 * math.prod(x0.shape[1:]) * (1 + math.log(2 * math.pi) + log_var), len(x0))
