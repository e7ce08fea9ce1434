"""Steps of DDPM (ancestral sampling) and DDIM."""

from typing import Any

import jax.numpy as jnp

from diffusion_jax.process import gaussian
from diffusion_jax.process.base import Array, Draw, StepCoefficients, expand, normal
from diffusion_jax.sampling.base import BoundDenoiser, SamplerStep


def ancestral(draw: Draw = gaussian.draw, draws_x0: bool = False) -> SamplerStep:
    """Ancestral sampling: x_s drawn from the model's reverse kernel, x_s = mean + sqrt(var) noise.

    The step that ends without noise takes the mean (Gaussian), the likelier value (binomial) or a sample (categorical).
    One network call per step.

    Args:
        draw: the `draw` of the process.
        draws_x0: whether the step that ends without noise draws, too.

    Reference: Ho et al. 2020, algorithm 2.
    """

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        distribution = reverse(coefficients, denoise(x, coefficients.at), x)
        noise = normal(keys, x.shape[1:], x.dtype)
        noisy = jnp.isfinite(expand(coefficients.to.log_sigma, x))
        return draw(distribution, noise if draws_x0 else jnp.where(noisy, noise, 0)), carry

    return SamplerStep(step, uses_kernel=True, kernel_only=True, needs_score=False)


def ddim(eta: float = 0.0) -> SamplerStep:
    """DDIM: x_s = alpha_s x0 + sqrt(sigma_s² - v²) eps + v noise, with v = eta sigma_s sqrt(1 - e^(-2h)).

    With eta = 0 it draws no noise, and is Euler's method on dy = eps d(sigma/alpha) for y = x/alpha. One network call
    per step.

    Args:
        eta: share of the noise that is drawn anew, in [0, 1]; 1 is ancestral sampling with the posterior variance.

    Raises ValueError for another eta. Reference: Song et al. 2021 (DDIM), eq. 12 and 14.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"sampler.ddim.eta={eta} must be in [0, 1]; 0 draws no noise, 1 is ancestral sampling")

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        to, prediction = coefficients.to, denoise(x, coefficients.at)
        fresh = -(eta**2) * jnp.expm1(-2 * coefficients.h)  # v² / sigma_s²
        kept = expand(to.sigma * jnp.sqrt(1 - fresh), x)
        x_s = expand(to.alpha, x) * prediction.x0 + kept * prediction.eps
        if eta:
            x_s += expand(to.sigma * jnp.sqrt(fresh), x) * normal(keys, x.shape[1:], x.dtype)
        return x_s, carry

    return SamplerStep(step)
