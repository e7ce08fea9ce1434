"""Ancestral sampling: draw x_s from the model's own kernel, step by step."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, expand, normal
from diffusion_jax.process.gaussian import draw as gaussian_draw
from diffusion_jax.sampling.loop import BoundPredict


def ancestral(
    predict: BoundPredict,
    reverse: Reverse,
    row: Any,
    x: Array,
    memory: Any,
    keys: Array,
    draw: Callable[..., Array] = gaussian_draw,
) -> tuple[Array, Any]:
    """x_s = mean + sqrt(var) noise; the step that ends without noise (sigma_s = 0) takes the mean.

    draw: that of the process; of bits, the last step takes the likelier ones. Source: Ho et al. 2020, algorithm 2. One
    network call.
    """
    noise = normal(keys, x.shape[1:], x.dtype)
    noisy = jnp.isfinite(expand(row.to.log_sigma, x))
    return draw(reverse(row, predict(x, row.at), x), jnp.where(noisy, noise, 0)), memory
