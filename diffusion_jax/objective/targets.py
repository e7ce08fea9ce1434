"""Targets of a network: a x0 + b eps of clean example and noise.

Together with x_t = alpha x0 + sigma eps the output of a network gives two linear equations,

    alpha x0 + sigma eps = x_t,
        a x0 +     b eps = output,

so that a parameterisation is just its coefficients (a, b). In float32 the system is ill-conditioned near both ends by
nature (x0 from eps where alpha is tiny).
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.process.base import Array, Level, Schedule, expand, level
from diffusion_jax.process.gaussian import GaussianCoefficients, step_coefficients


class Target(Protocol):
    """Parameterisation: the coefficients (a, b) of the network's target a x0 + b eps."""

    def __call__(self, schedule: Schedule, level: Level, /) -> tuple[Array, Array]:
        """Return (a, b), each [B], for the levels [B] of a schedule."""


class OutputTransform(Protocol):
    """Transform of the raw output of a network into its target."""

    def __call__(self, schedule: Schedule, level: Level, x_t: Array, output: Array, head: Any, /) -> Array:
        """Return the target [B,*D] from the two outputs [B,*D] of the network for x_t [B,*D] at levels [B]."""


@declare(gaussian=True)
def eps() -> Target:
    """Target eps, the noise: (0, 1). Reference: Ho et al. 2020, eq. 11."""
    return lambda schedule, level: (jnp.zeros_like(level.t), jnp.ones_like(level.t))


def x0() -> Target:
    """Target x0, the clean example: (1, 0)."""
    return lambda schedule, level: (jnp.ones_like(level.t), jnp.zeros_like(level.t))


@declare(gaussian=True)
def v() -> Target:
    """Target v = alpha eps - sigma x0: (-sigma, alpha). Reference: Salimans and Ho 2022, appendix D."""
    return lambda schedule, level: (-level.sigma, level.alpha)


@declare(gaussian=True)
def velocity() -> Target:
    """Target velocity eps - x0 of the straight path: (-1, 1). It determines x0 at every level of every schedule.

    Reference: Liu et al. 2023 (rectified flow), eq. 1; Lipman et al. 2023 (flow matching).
    """
    return lambda schedule, level: (-jnp.ones_like(level.t), jnp.ones_like(level.t))


@declare(gaussian=True)
def score() -> Target:
    """Target score of q(x_t | x0), -eps/sigma: (0, -1/sigma). Reference: Song et al. 2021, eq. 7."""
    return lambda schedule, level: (jnp.zeros_like(level.t), -jnp.exp(-level.log_sigma))


@declare(gaussian=True, chain=True, clips=False)
def posterior_mean(num_steps: int) -> Target:
    """Target mean of q(x_s | x_t, x0), one step of the chain earlier, s = t - 1/num_steps.

    With that mean = c0 x0 + c1 x_t the coefficients are (c0 + c1 alpha, c1 sigma). Reference: Ho et al. 2020, eq. 7.
    """

    def target(schedule: Schedule, at: Level) -> tuple[Array, Array]:
        step = previous_step_coefficients(schedule, at, num_steps)
        return step.x0_scale + step.x_t_scale * at.alpha, step.x_t_scale * at.sigma

    return target


@declare(gaussian=True)
def edm(sigma_data: float = 0.5) -> Target:
    """Target of EDM's preconditioning: x0 = c_skip x_t/alpha + c_out target.

    The target has variance 1. With d = sigma_data, the standard deviation of the data, and r = sqrt(sigma² + alpha² d²)
    the coefficients are (sigma/(d r), -alpha d/r). d = 1 in a variance-preserving process gives -v.
    Reference: Karras et al. 2022, table 1.
    """

    def target(schedule: Schedule, level: Level) -> tuple[Array, Array]:
        r = jnp.hypot(level.sigma, level.alpha * sigma_data)
        return level.sigma / (sigma_data * r), -level.alpha * sigma_data / r

    return target


@declare(gaussian=True, chain=True, preserves_variance=True)
def dpm2015(num_steps: int) -> Target:
    """Target z of the reverse mean sqrt(1 - beta) x_t + sqrt(beta) z of a step.

    For variance-preserving chains. The coefficients are sqrt(beta) alpha_s (1, -alpha/sigma).
    Reference: the public code of Sohl-Dickstein et al. 2015.
    """

    def target(schedule: Schedule, at: Level) -> tuple[Array, Array]:
        step = previous_step_coefficients(schedule, at, num_steps)
        a = jnp.exp(0.5 * step.log_var_large + step.to.log_alpha)
        return a, -a * jnp.exp(0.5 * at.logsnr)

    return target


def dpm2015_paper_output(num_steps: int) -> OutputTransform:
    """Transform z of the mean (x_t - z)(1 - Sigma) + z into z of `dpm2015`.

    Sigma = sigmoid(head + logit beta). The paper's own mean: the forward step, a pull towards 0, becomes a pull towards
    z.
    Reference: Sohl-Dickstein et al. 2015, appendix D.2.1.
    """

    def transform(schedule: Schedule, at: Level, x_t: Array, output: Array, head: Any) -> Array:
        step = previous_step_coefficients(schedule, at, num_steps)
        log_beta = expand(step.log_var_large, x_t)
        rate = jnp.exp(log_sigmoid_rate(log_beta, head))
        lost = -expand(jnp.expm1(at.log_alpha - step.to.log_alpha), x_t)  # 1 - sqrt(1 - beta)
        return (x_t * (lost - rate) + output * rate) * jnp.exp(-0.5 * log_beta)

    return transform


@declare(gaussian=True, chain=True, preserves_variance=True, family="dpm2015_paper", output=dpm2015_paper_output)
def dpm2015_paper(num_steps: int) -> Target:
    """Target `dpm2015` after the transform `dpm2015_paper_output`, with the variance of the same name."""
    return dpm2015(num_steps)


TARGETS: dict[str, Callable[..., Target]] = {
    "eps": eps,
    "x0": x0,
    "v": v,
    "velocity": velocity,
    "score": score,
    "edm": edm,
    "posterior_mean": posterior_mean,
    "dpm2015_code": dpm2015,
    "dpm2015_paper": dpm2015_paper,
}
"""Targets by name."""


def previous_step_coefficients(schedule: Schedule, at: Level, num_steps: int) -> GaussianCoefficients:
    """Return the step coefficients from levels of a chain to the previous levels."""
    s = jnp.maximum(jnp.round(at.t * num_steps) - 1, 0) / num_steps
    return step_coefficients(at, level(schedule, s))


def log_sigmoid_rate(log_beta: Array, head: Array) -> Array:
    """Return log sigmoid(head + logit beta): the log of a variance around beta and below 1."""
    return jax.nn.log_sigmoid(head + log_beta - jnp.log(-jnp.expm1(log_beta)))


def combine_x0_eps(target: tuple[Array, Array], x0: Array, eps: Array) -> Array:
    """Return the target a x0 + b eps [B,*D] of a pair (x0, eps), for coefficients (a, b), each [B]."""
    a, b = target
    return expand(a, x0) * x0 + expand(b, x0) * eps


def solve_x0_eps(target: tuple[Array, Array], level: Level, x_t: Array, output: Array) -> tuple[Array, Array]:
    """Return the pair (x0, eps) with alpha x0 + sigma eps = x_t and a x0 + b eps = output.

    target: the coefficients (a, b), each [B]. output: of the network, its estimate of the target, [B,*D].
    """
    a, b = target
    alpha, sigma = level.alpha, level.sigma
    scale = 1 / (alpha * b - sigma * a)
    x0 = expand(b * scale, x_t) * x_t - expand(sigma * scale, x_t) * output
    eps = expand(alpha * scale, x_t) * output - expand(a * scale, x_t) * x_t
    return x0, eps


def solve_where_determined(target: tuple[Array, Array], level: Level, x_t: Array, output: Array) -> tuple[Array, Array]:
    """Return the pair (x0, eps) as `solve_x0_eps`, but where it has no solution x0 = 0 and eps = output/b.

    There alpha = 0 and the target holds no x0, so that nothing determines x0: no sampler may start there.
    """
    a, b = target
    lost = level.alpha * b - level.sigma * a == 0
    x0, eps = solve_x0_eps(target, level._replace(log_alpha=jnp.where(lost, 0, level.log_alpha)), x_t, output)
    return jnp.where(expand(lost, x_t), 0, x0), eps
