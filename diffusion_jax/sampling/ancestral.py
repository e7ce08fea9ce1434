"""Ancestral sampling: draw x_s from the model's own kernel, step by step."""

from typing import Any

import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process import gaussian
from diffusion_jax.process.base import Array, Draw, expand, normal
from diffusion_jax.sampling.loop import BoundPredict, Method


def ancestral(draw: Draw = gaussian.draw) -> Method:
    """x_s = mean + sqrt(var) noise, of the model's kernel; the step that ends without noise takes the mean.

    draw: that of the process, from a law and noise; of bits, the last step takes the likelier ones. Source: Ho et al.
    2020, algorithm 2. One network call.
    """

    def step(
        predict: BoundPredict, reverse: Reverse, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        law = reverse(row, predict(x, row.at), x)
        noise = normal(keys, x.shape[1:], x.dtype)
        noisy = jnp.isfinite(expand(row.to.log_sigma, x))
        return draw(law, jnp.where(noisy, noise, 0)), memory

    return Method(step, kernel=True, score=False)
