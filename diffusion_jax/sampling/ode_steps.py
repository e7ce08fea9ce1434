"""Steps of the probability-flow ODE by Euler and Heun. Its solutions have the marginals of the SDE.

    dx = (f x - 1/2 g² score) dt = x d(log alpha) + eps (d sigma - sigma d(log alpha)) = x0 d alpha + eps d sigma,

since f dt = d(log alpha), score = -eps/sigma, 1/2 g² dt = sigma (d sigma - sigma d(log alpha)) and x = alpha x0 +
sigma eps. Written with differentials of the schedule the steps need no derivative, and are finite at t = 0, where g² is
not. The first form is used where alpha > 0. Where no signal is left at t = 1, log alpha is infinite there, and the
second form is used. On the straight path of rectified flow it is x_s = x - (t - s) v with v = eps - x0, as DDIM.
Reference: Song et al. 2021, eq. 13; Liu et al. 2023 (rectified flow).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process.base import Array, Level, StepCoefficients, expand
from diffusion_jax.sampling.base import BoundDenoiser, SamplerStep, Step

Change = Callable[[StepCoefficients, Level, Array, Prediction], Array]
"""Change of x over a step, F(x, level): (coefficients, level, x, prediction at x and level) -> [B,*D]."""


def ode_euler() -> SamplerStep:
    """Euler: x_s = x + F(x, t).

    F is the right-hand side above, with differences from t to s for differentials. A step that ends without noise takes
    the predicted x0. One network call per step.
    """
    return SamplerStep(euler(log_change), needs_signal=True, from_noise=SamplerStep(euler(linear_change)))


def ode_heun() -> SamplerStep:
    """Heun: x_s = x + (F(x, t) + F(x', s))/2, with x' the step of Euler.

    Two network calls per step; one where s is without noise, which takes the predicted x0.
    """
    return SamplerStep(heun(log_change), needs_signal=True, from_noise=SamplerStep(heun(linear_change)))


def mean_flow() -> SamplerStep:
    """Mean velocity: x_s = x - (sigma_t - sigma_s) u(x, s, t), exact in one step for the exact mean velocity.

    For models trained with loss.name=mean_flow. One network call per step.
    Reference: Geng et al. 2025 (MeanFlow), algorithm 2.
    """

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        at = coefficients.at
        prediction = denoise(x, at._replace(until=jnp.maximum(coefficients.to.t, 0)))
        return x + linear_change(coefficients, at, x, prediction), carry

    return SamplerStep(step, mean_velocity=True)


def euler(change: Change) -> Step:
    """Return Euler's step with a form of the right-hand side."""

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        prediction = denoise(x, coefficients.at)
        x_s = x + change(coefficients, coefficients.at, x, prediction)
        return jnp.where(jnp.isneginf(expand(coefficients.to.log_sigma, x)), prediction.x0, x_s), carry

    return step


def heun(change: Change) -> Step:
    """Return Heun's step with a form of the right-hand side."""

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        prediction = denoise(x, coefficients.at)

        def corrected() -> Array:
            first = change(coefficients, coefficients.at, x, prediction)
            second = change(coefficients, coefficients.to, x + first, denoise(x + first, coefficients.to))
            return x + (first + second) / 2

        return jax.lax.cond(jnp.isneginf(coefficients.to.log_sigma[0]), lambda: prediction.x0, corrected), carry

    return step


def log_change(coefficients: StepCoefficients, level: Level, x: Array, prediction: Prediction) -> Array:
    """Return x d(log alpha) + eps (d sigma - sigma d(log alpha)) over a step."""
    d_sigma = coefficients.at.sigma * jnp.expm1(coefficients.log_sigma_ratio)
    return (
        expand(coefficients.log_alpha_ratio, x) * x
        + expand(d_sigma - level.sigma * coefficients.log_alpha_ratio, x) * prediction.eps
    )


def linear_change(coefficients: StepCoefficients, level: Level, x: Array, prediction: Prediction) -> Array:
    """Return x0 d alpha + eps d sigma over a step."""
    at, to = coefficients.at, coefficients.to
    return expand(to.alpha - at.alpha, x) * prediction.x0 + expand(to.sigma - at.sigma, x) * prediction.eps
