"""UniPC: a multistep predictor, and a corrector that costs no network call."""

from typing import Any

import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, expand
from diffusion_jax.sampling.exponential import History, at_the_end, earlier, finite, integral, push, remember
from diffusion_jax.sampling.loop import BoundPredict, Method


def unipc(order: int = 2) -> Method:
    """UniPC of order p + 1 = `order` + 1 by the polynomials of sampling/exponential.py, through p predictions at most.

    The prediction at t, made for the step ahead, first corrects the step that led there, as one point more, u = 1, of
    its polynomial; then the predictor goes on from the corrected x. The weights are exact (UniPC_v of the paper; its
    B(h) are approximations to those of low order). Source: Zhao et al. 2023, section 3 and appendix.
    One network call. Raises ValueError unless order is 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"sampler.unipc.order={order} is not known; use 1, 2 or 3")

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: History, keys: Array
    ) -> tuple[Array, History]:
        x0 = predict(x, row.at).x0

        last, before = finite(memory.h[0]), History(memory.x0[1:], memory.h[1:], memory.known - 1)
        zero, past = jnp.zeros_like(last), earlier(before, last)
        predicted = integral(last, [zero, *past], list(memory.x0), memory.known)
        corrected = integral(last, [zero, zero + 1, *past], [memory.x0[0], x0, *memory.x0[1:]], memory.known + 1)
        correction = expand(row.at.alpha, x) * (corrected - predicted)
        x = x + jnp.where((memory.known > 0) & jnp.isfinite(expand(memory.h[0], x)), correction, 0)

        places = [zero, *earlier(memory, finite(row.h))][:order]
        found = integral(row.h, places, [x0, *memory.x0][:order], memory.known + 1)
        x_s = expand(jnp.exp(row.log_sigma_ratio), x) * x + expand(row.to.alpha, x) * found
        return at_the_end(row, x0, x_s), push(memory, x0, row.h)

    return Method(step, memory=remember(order))
