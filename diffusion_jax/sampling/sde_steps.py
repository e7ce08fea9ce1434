"""Steps of the reverse SDE from t down to s.

The SDE is dx = (f x - g² score) dt + g dw.

The integrals of f and g² over a step follow from the schedule without derivatives, and are finite at both ends:

    int f dt = -log(alpha_s/alpha_t),      int g² dt = sigma_t² - sigma_s² + 2 sigma_t² log(alpha_s/alpha_t) + O(step²),

the second exactly so for VE and, with f = -g²/2, to second order for VP and sub-VP. score = -eps/sigma.
A step that ends without noise takes the predicted x0.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from diffusion_jax.process.base import Array, StepCoefficients, expand, normal
from diffusion_jax.sampling.base import BoundDenoiser, SamplerStep, Step
from diffusion_jax.sampling.ode_steps import linear_change


def euler_maruyama() -> SamplerStep:
    """Euler-Maruyama: x_s = (1 + log(alpha_s/alpha_t)) x - G² eps/sigma_t + G noise, G² = int g² dt.

    Where no signal is left at t = 1, int f dt and int g² dt are infinite there. The step is then a step of the
    probability-flow ODE, with the noise of the forward step, G² = sigma_ts²: x_s = x + x0 d alpha + eps d sigma - G²/2
    eps/sigma_t + G noise. One network call per step. Reference: Song et al. 2021, eq. 6 and section 4.1.
    """

    def scales(coefficients: StepCoefficients) -> tuple[Array, Array]:
        return 1 + coefficients.log_alpha_ratio, 2 * coefficients.log_alpha_ratio - jnp.expm1(
            2 * coefficients.log_sigma_ratio
        )

    return SamplerStep(_noisy_step(scales), needs_signal=True, from_noise=SamplerStep(_step_from_noise))


def reverse_diffusion() -> SamplerStep:
    """Reverse diffusion: x_s = (2 - a) x - sigma_ts²/sigma_t eps + sigma_ts noise with a = alpha_t/alpha_s.

    One network call per step. Reference: Song et al. 2021, appendix E (for sub-VP the public code has Euler's forward
    step instead of the exact one here). It needs a near 1: where no signal is left at t = 1, a is 0 there, and the
    steps are those of `euler_maruyama`.
    """

    def scales(coefficients: StepCoefficients) -> tuple[Array, Array]:
        return 2 - jnp.exp(-coefficients.log_alpha_ratio), -jnp.expm1(-2 * coefficients.h)

    return SamplerStep(_noisy_step(scales), needs_signal=True, from_noise=SamplerStep(_step_from_noise))


def _step_from_noise(
    denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
) -> tuple[Array, Any]:
    """Step that is finite where no signal is left, see `euler_maruyama`."""
    prediction, sigma = denoise(x, coefficients.at), coefficients.at.sigma
    share = -jnp.expm1(-2 * coefficients.h)
    noise = expand(sigma * jnp.sqrt(share), x) * normal(keys, x.shape[1:], x.dtype)
    x_s = x + linear_change(coefficients, coefficients.at, x, prediction)
    x_s += noise - expand(sigma * share / 2, x) * prediction.eps
    return jnp.where(jnp.isneginf(expand(coefficients.to.log_sigma, x)), prediction.x0, x_s), carry


def _noisy_step(scales: Callable[[StepCoefficients], tuple[Array, Array]]) -> Step:
    """Return the step with `scales(coefficients) -> (factor of x, G²/sigma_t²)`."""

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        prediction = denoise(x, coefficients.at)
        x_scale, share = scales(coefficients)
        noise = normal(keys, x.shape[1:], x.dtype)
        sigma = coefficients.at.sigma
        x_s = (
            expand(x_scale, x) * x
            - expand(sigma * share, x) * prediction.eps
            + expand(sigma * jnp.sqrt(share), x) * noise
        )
        return jnp.where(jnp.isneginf(expand(coefficients.to.log_sigma, x)), prediction.x0, x_s), carry

    return step
