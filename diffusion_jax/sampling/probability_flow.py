"""The probability-flow ODE, whose solutions have the marginals of the SDE, in fixed steps of Euler and Heun.

    dx = (f x - 1/2 g² score) dt = x d(log alpha) + eps (d sigma - sigma d(log alpha)),

since f dt = d(log alpha), score = -eps/sigma and 1/2 g² dt = sigma (d sigma - sigma d(log alpha)). Written with
differentials of the schedule the steps need no derivative, and are finite at both ends, where g² is not.
Source: Song et al. 2021, eq. 13.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, expand
from diffusion_jax.sampling.loop import BoundPredict, Method


def ode_euler() -> Method:
    """x_s = x + F(x, t), with F the right-hand side above and differences from t to s for its differentials.

    A step that ends without noise takes the predicted x0. One network call.
    """

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        found = predict(x, row.at)
        x_s = x + _change(row, row.at, x, found.eps)
        return jnp.where(jnp.isneginf(expand(row.to.log_sigma, x)), found.x0, x_s), memory

    return Method(step, signal=True)


def ode_heun() -> Method:
    """x_s = x + (F(x, t) + F(x', s))/2, with x' the step of Euler. Two network calls; one where s is without noise."""

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        found = predict(x, row.at)

        def corrected() -> Array:
            first = _change(row, row.at, x, found.eps)
            eps = predict(x + first, row.to).eps
            return x + (first + _change(row, row.to, x + first, eps)) / 2

        return jax.lax.cond(jnp.isneginf(row.to.log_sigma[0]), lambda: found.x0, corrected), memory

    return Method(step, signal=True)


def _change(row: Any, level: Level, x: Array, eps: Array) -> Array:
    """F(x, level) over the step of a row."""
    d_sigma = row.at.sigma * jnp.expm1(row.log_sigma_ratio)
    return expand(row.log_alpha_ratio, x) * x + expand(d_sigma - level.sigma * row.log_alpha_ratio, x) * eps
