"""DDIM: keep the predicted noise, or part of it, instead of drawing all of it anew."""

from typing import Any

import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, expand, normal
from diffusion_jax.sampling.loop import BoundPredict, Method


def ddim(eta: float = 0.0) -> Method:
    """x_s = alpha_s x0 + sqrt(sigma_s² - v²) eps + v noise, where v = eta sigma_s sqrt(1 - e^(-2h)).

    eta = 1 is ancestral sampling with the posterior (small) variance; eta = 0 draws no noise, and is Euler's method on
    dy = eps d(sigma/alpha) for y = x/alpha. Source: Song et al. 2021 (DDIM), eq. 12 and 14. One network call.
    Raises ValueError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"sampler.ddim.eta={eta} must be in [0, 1]; 0 draws no noise, 1 is ancestral sampling")

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        found = predict(x, row.at)
        fresh = -(eta**2) * jnp.expm1(-2 * row.h)  # the share of sigma_s² that is drawn anew
        kept = expand(row.to.sigma * jnp.sqrt(1 - fresh), x)
        x_s = expand(row.to.alpha, x) * found.x0 + kept * found.eps
        if eta:
            x_s += expand(row.to.sigma * jnp.sqrt(fresh), x) * normal(keys, x.shape[1:], x.dtype)
        return x_s, memory

    return Method(step)
