"""The reverse SDE, dx = (f x - g² score) dt + g dw, walked from t down to s with noise drawn at every step.

The schedule alone says what f and g² do over a step, so nothing is differentiated and neither end is singular:

    int f dt = -log(alpha_s/alpha_t),      int g² dt = sigma_t² - sigma_s² + 2 sigma_t² log(alpha_s/alpha_t) + O(step²),

the second exactly so for VE and, with f = -g²/2, to second order for VP and sub-VP. score = -eps/sigma.
A step that ends without noise takes the predicted x0.
"""

from typing import Any

import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, expand, normal
from diffusion_jax.sampling.loop import BoundPredict, Method


def euler_maruyama() -> Method:
    """x_s = (1 + log(alpha_s/alpha_t)) x - G² eps/sigma_t + G noise, G² = int g² dt.

    Source: Song et al. 2021, eq. 6 and section 4.1. One network call.
    """

    def scales(row: Any) -> tuple[Array, Array]:
        return 1 + row.log_alpha_ratio, 2 * row.log_alpha_ratio - jnp.expm1(2 * row.log_sigma_ratio)

    return Method(_noisy_step(scales), signal=True)


def reverse_diffusion() -> Method:
    """The forward step turned round: x_s = (2 - a) x - sigma_ts²/sigma_t eps + sigma_ts noise.

    a = alpha_t/alpha_s. Source: Song et al. 2021, appendix E (for sub-VP the public code has Euler's forward step
    instead of the exact one here). One network call.
    """

    def scales(row: Any) -> tuple[Array, Array]:
        return 2 - jnp.exp(-row.log_alpha_ratio), -jnp.expm1(-2 * row.h)

    return Method(_noisy_step(scales))


def _noisy_step(scales: Any) -> Any:
    """A step from `scales(row) -> (of x, G²/sigma_t²)`."""

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        found = predict(x, row.at)
        of_x, share = scales(row)
        noise = normal(keys, x.shape[1:], x.dtype)
        sigma = row.at.sigma
        x_s = expand(of_x, x) * x - expand(sigma * share, x) * found.eps + expand(sigma * jnp.sqrt(share), x) * noise
        return jnp.where(jnp.isneginf(expand(row.to.log_sigma, x)), found.x0, x_s), memory

    return step
