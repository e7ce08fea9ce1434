"""Stochastic sampler of EDM: Heun's method with added noise (churn).

Heun's method solves the probability-flow ODE, and noise is added before each step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.process.base import Array, Level, Schedule, StepCoefficients, expand, level, normal, time_of
from diffusion_jax.sampling.base import BoundDenoiser, SamplerStep
from diffusion_jax.sampling.ode_steps import heun, linear_change


class ChurnCoefficients(NamedTuple):
    """Coefficients of a step t -> s by way of a noisier level u >= t."""

    at: Level
    to: Level
    up: Level
    """Level u; t itself where no noise is added."""
    grown: Array
    """alpha_u/alpha_t."""
    added: Array
    """alpha_u sqrt(S_u² - S_t²), with S = sigma/alpha."""
    kept: Array
    """alpha_s/alpha_u."""
    change: Array
    """alpha_s (S_s - S_u)."""


def edm(
    churn: float = 0.0, s_min: float = 0.0, s_max: float = 1e9, s_noise: float = 1.0, cap: bool = True
) -> SamplerStep:
    """EDM's sampler: y_u = y + sqrt(S_u² - S_t²) s_noise noise, then Heun on dy = eps dS from u to s.

    Here y = x/alpha, S = sigma/alpha, and S_u = (1 + min(churn/N, sqrt(2) - 1)) S_t in N steps. Where no signal is left
    at t = 1, S is infinite there, and Heun's method is on dx = x0 d alpha + eps d sigma, which is the same ODE. Two
    network calls per step; one at the step that ends without noise.

    Args:
        churn: S_churn, amount of noise; 0 for none, which is Heun's method.
        s_min, s_max: range of S_t in which noise is added.
        s_noise: standard deviation of the noise.
        cap: keep S_u at or below S at t = 1, the largest that the model was trained on. False follows the public code:
            a level above has the alpha of t = 1.

    Raises ValueError for options out of range. Reference: Karras et al. 2022, algorithm 2.
    """
    if not (churn >= 0 and 0 <= s_min <= s_max and s_noise > 0):
        raise ValueError(
            f"sampler.edm: needs churn >= 0, 0 <= s_min <= s_max and s_noise > 0 (got churn={churn}, s_min={s_min}, "
            f"s_max={s_max}, s_noise={s_noise})"
        )

    def prepare(schedule: Schedule, coefficients: StepCoefficients) -> ChurnCoefficients:
        at, to = coefficients.at, coefficients.to
        ratio = jnp.exp(-at.logsnr / 2)
        more = jnp.where((s_min <= ratio) & (ratio <= s_max), min(churn / len(at.t), 2**0.5 - 1), 0.0)
        logsnr = at.logsnr - 2 * jnp.log1p(more)
        logsnr = jnp.maximum(logsnr, at.logsnr[0]) if cap else logsnr
        up = at
        if churn:
            higher = level(schedule, time_of(schedule, logsnr))
            if not cap:
                above = logsnr < at.logsnr[0]
                higher = higher._replace(log_sigma=jnp.where(above, higher.log_alpha - logsnr / 2, higher.log_sigma))
            up = jax.tree.map(lambda u, t: jnp.where(logsnr < at.logsnr, u, t), higher, at)
        return ChurnCoefficients(
            at=at,
            to=to,
            up=up,
            grown=jnp.exp(up.log_alpha - at.log_alpha),
            added=up.sigma * jnp.sqrt(-jnp.expm1(up.logsnr - at.logsnr)),
            kept=jnp.exp(to.log_alpha - up.log_alpha),
            change=to.sigma - jnp.exp(to.log_alpha - up.logsnr / 2),
        )

    def prepare_from_noise(schedule: Schedule, coefficients: StepCoefficients) -> ChurnCoefficients:
        found = prepare(schedule, coefficients)
        same = found.up.logsnr == found.at.logsnr  # both infinite at t = 1
        return found._replace(grown=jnp.where(same, 1, found.grown), added=jnp.where(same, 0, found.added))

    def add_noise(coefficients: ChurnCoefficients, x: Array, keys: Array) -> Array:
        if not churn:
            return x
        noise = s_noise * normal(keys, x.shape[1:], x.dtype)
        return expand(coefficients.grown, x) * x + expand(coefficients.added, x) * noise

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: ChurnCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        x = add_noise(coefficients, x, keys)
        prediction = denoise(x, coefficients.up)
        kept, change = expand(coefficients.kept, x) * x, expand(coefficients.change, x)

        def corrected() -> Array:
            eps = denoise(kept + change * prediction.eps, coefficients.to).eps
            return kept + change * (prediction.eps + eps) / 2

        return jax.lax.cond(jnp.isneginf(coefficients.to.log_sigma[0]), lambda: prediction.x0, corrected), carry

    heun_step = heun(linear_change)

    def step_from_noise(
        denoise: BoundDenoiser, reverse: Any, coefficients: ChurnCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        from_up = coefficients._replace(at=coefficients.up)
        return heun_step(denoise, reverse, from_up, add_noise(coefficients, x, keys), carry, keys)

    from_noise = SamplerStep(step_from_noise, prepare=prepare_from_noise, between_levels=churn > 0)
    return SamplerStep(step, prepare=prepare, needs_signal=True, between_levels=churn > 0, from_noise=from_noise)
