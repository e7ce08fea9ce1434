"""Steps of the probability-flow ODE by Euler and Heun. Its solutions have the marginals of the SDE.

    dx = (f x - 1/2 g² score) dt = x d(log alpha) + eps (d sigma - sigma d(log alpha)),

since f dt = d(log alpha), score = -eps/sigma and 1/2 g² dt = sigma (d sigma - sigma d(log alpha)). Written with
differentials of the schedule the steps need no derivative, and are finite at both ends, where g² is not.
Reference: Song et al. 2021, eq. 13.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.process.base import Array, Level, StepCoefficients, expand
from diffusion_jax.sampling.base import BoundDenoiser, SamplerStep


def ode_euler() -> SamplerStep:
    """Euler: x_s = x + F(x, t), with F the right-hand side above and differences from t to s for differentials.

    A step that ends without noise takes the predicted x0. One network call per step.
    """

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        prediction = denoise(x, coefficients.at)
        x_s = x + _change(coefficients, coefficients.at, x, prediction.eps)
        return jnp.where(jnp.isneginf(expand(coefficients.to.log_sigma, x)), prediction.x0, x_s), carry

    return SamplerStep(step, needs_signal=True)


def ode_heun() -> SamplerStep:
    """Heun: x_s = x + (F(x, t) + F(x', s))/2, with x' the step of Euler.

    Two network calls per step; one where s is without noise, which takes the predicted x0.
    """

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        prediction = denoise(x, coefficients.at)

        def corrected() -> Array:
            first = _change(coefficients, coefficients.at, x, prediction.eps)
            eps = denoise(x + first, coefficients.to).eps
            return x + (first + _change(coefficients, coefficients.to, x + first, eps)) / 2

        return jax.lax.cond(jnp.isneginf(coefficients.to.log_sigma[0]), lambda: prediction.x0, corrected), carry

    return SamplerStep(step, needs_signal=True)


def _change(coefficients: StepCoefficients, level: Level, x: Array, eps: Array) -> Array:
    """Return F(x, level) over a step."""
    d_sigma = coefficients.at.sigma * jnp.expm1(coefficients.log_sigma_ratio)
    return (
        expand(coefficients.log_alpha_ratio, x) * x
        + expand(d_sigma - level.sigma * coefficients.log_alpha_ratio, x) * eps
    )
