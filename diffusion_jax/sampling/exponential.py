"""Exponential integrators of the probability-flow ODE in lambda = log(alpha/sigma), DPM-Solver++ among them.

The linear part is solved exactly, and what is left is an integral of the predicted x0 over a step of length h,

    x_s = sigma_s/sigma_t x_t + alpha_s h int_0^1 e^(-(1 - u) h) x0(u) du,

in which a polynomial in u stands for x0(u): through the prediction at t (u = 0) and those of earlier steps (u < 0).
A step that ends without noise (h = inf) takes the predicted x0. Source: Lu et al. 2022 (DPM-Solver++), eq. 8.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, expand, normal
from diffusion_jax.sampling.loop import BoundPredict, Method


class History(NamedTuple):
    """Predictions of the steps before this one, the newest first."""

    x0: tuple[Array, ...]
    """[B,*D] each."""
    h: tuple[Array, ...]
    """The steps [B] that were taken from them."""
    known: Array
    """How many of them there are so far."""


def remember(length: int) -> Any:
    """`memory(x)` of a method that looks back at `length` predictions."""

    def memory(x: Array) -> History:
        nothing = jnp.zeros_like(x), jnp.ones(len(x), x.dtype)
        return History((nothing[0],) * length, (nothing[1],) * length, jnp.zeros((), jnp.int32))

    return memory


def push(history: History, x0: Array, h: Array) -> History:
    """The history after a step of length h from a prediction."""
    length = len(history.x0)
    return History((x0, *history.x0)[:length], (h, *history.h)[:length], jnp.minimum(history.known + 1, length))


def moments(h: Array, number: int) -> list[Array]:
    """h int_0^1 e^(-(1 - u) h) u^j du [B] for j < number: 1 - e^-h, 1 - m_0/h, 1 - 2 m_1/h, …

    The recursion cancels where h is small; there it is Gauss's rule with 8 nodes, to rounding.
    """
    found = [-jnp.expm1(-h)]
    nodes, weights = (np.polynomial.legendre.leggauss(8) + np.array([[1], [0]])) / 2
    small = jnp.minimum(h, 1)
    for j in range(1, number):
        rule = jnp.zeros_like(h)
        for u, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            rule += small * weight * jnp.exp((u - 1) * small) * u**j
        found.append(jnp.where(h < 1, rule, 1 - j * found[-1] / h))
    return found


def integral(h: Array, places: list[Array], values: list[Array], known: Array) -> Array:
    """h int_0^1 e^(-(1 - u) h) p(u) du [B,*D] of the polynomial p through values [B,*D] at places u [B].

    In Newton's form, so that a polynomial through fewer points is a shorter sum: those numbered `known` and more are
    left out. places[0] = 0.
    """
    m = moments(h, len(places))
    total = expand(m[0], values[0]) * values[0]
    differences, basis = list(values), [jnp.ones_like(h)]  # basis: prod (u - places[k]) by powers of u, lowest first
    for order in range(1, len(places)):
        gaps = [places[i + order] - places[i] for i in range(len(places) - order)]
        differences = [
            (b - a) / expand(gap, a) for a, b, gap in zip(differences[:-1], differences[1:], gaps, strict=True)
        ]
        shifted = [jnp.zeros_like(h), *basis]
        basis = [up - places[order - 1] * low for up, low in zip(shifted, [*basis, jnp.zeros_like(h)], strict=True)]
        weight = jnp.stack([c * m_j for c, m_j in zip(basis, m[: order + 1], strict=True)]).sum(0)
        total += jnp.where(order < known, expand(weight, values[0]) * differences[0], 0)
    return total


def at_the_end(row: Any, x0: Array, x_s: Array) -> Array:
    """x0 where the step ends without noise, x_s elsewhere."""
    return jnp.where(jnp.isneginf(expand(row.to.log_sigma, x0)), x0, x_s)


def earlier(history: History, h: Array) -> list[Array]:
    """Where the predictions of the history lie in units of h: -h_1/h, -(h_1 + h_2)/h, …"""
    return [-sum(history.h[: i + 1], jnp.zeros_like(h)) / h for i in range(len(history.h))]


def finite(h: Array) -> Array:
    """h, or 1 where it is infinite and its step takes the predicted x0 (or no history) anyway."""
    return jnp.where(jnp.isfinite(h), h, 1)


def dpmpp_1s() -> Method:
    """x0(u) constant: x_s = sigma_s/sigma_t x + alpha_s (1 - e^-h) x0. The same step as DDIM with eta = 0.

    Source: Lu et al. 2022 (DPM-Solver++), section 4. One network call.
    """

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        x0 = predict(x, row.at).x0
        x_s = expand(jnp.exp(row.log_sigma_ratio), x) * x - expand(row.to.alpha * jnp.expm1(-row.h), x) * x0
        return at_the_end(row, x0, x_s), memory

    return Method(step)


def dpmpp_2m() -> Method:
    """x0(u) constant at the middle of a straight line: D = x0 + h/(2 h_1) (x0 - x0_1), in the step of `dpmpp_1s`.

    Second order. Source: Lu et al. 2022 (DPM-Solver++), algorithm 2. One network call.
    """
    return _two_steps(0.0)


def dpmpp_2m_sde(eta: float = 1.0) -> Method:
    """The same for the reverse SDE: x_s = sigma_s/sigma_t e^(-eta h) x + alpha_s (1 - e^(-(1 + eta) h)) D + v noise.

    v = sigma_s sqrt(1 - e^(-2 eta h)). With eta = 1 its first step is ancestral sampling with the small variance.
    Source: Lu et al. 2022 (DPM-Solver++), appendix (SDE-DPM-Solver++(2M)); eta: k-diffusion. One network call.
    Raises ValueError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"sampler.dpmpp_2m_sde.eta={eta} must be in [0, 1]")
    return _two_steps(eta)


def _two_steps(eta: float) -> Method:
    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: History, keys: Array
    ) -> tuple[Array, History]:
        x0 = predict(x, row.at).x0
        half_ratio = jnp.where(memory.known > 0, finite(row.h) / (2 * memory.h[0]), 0)
        d = x0 + expand(half_ratio, x) * (x0 - memory.x0[0])
        x_s = expand(jnp.exp(row.log_sigma_ratio - (eta * row.h if eta else 0)), x) * x
        x_s -= expand(row.to.alpha * jnp.expm1(-(1 + eta) * row.h), x) * d
        if eta:
            scale = row.to.sigma * jnp.sqrt(-jnp.expm1(-2 * eta * row.h))
            x_s += expand(scale, x) * normal(keys, x.shape[1:], x.dtype)
        return at_the_end(row, x0, x_s), push(memory, x0, row.h)

    return Method(step, memory=remember(1))


def dpmpp_3m(second_difference: str = "whole") -> Method:
    """x0(u) a parabola through three predictions, integrated exactly: third order.

    second_difference: "half" is what the public codes do, which weigh the parabola's u² by half as much; measured
    order 2. Source: Lu et al. 2022 (DPM-Solver++), the multistep method of order 3. One network call.
    Raises ValueError for another second_difference.
    """
    if second_difference not in ("whole", "half"):
        raise ValueError(f"sampler.dpmpp_3m.second_difference={second_difference!r} is not known; use whole or half")

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: History, keys: Array
    ) -> tuple[Array, History]:
        x0 = predict(x, row.at).x0
        places = [jnp.zeros_like(row.h), *earlier(memory, finite(row.h))]
        found = integral(row.h, places, [x0, *memory.x0], memory.known + 1)
        if second_difference == "half":
            found -= _half_of_the_square(row.h, places, [x0, *memory.x0], memory.known)
        x_s = expand(jnp.exp(row.log_sigma_ratio), x) * x + expand(row.to.alpha, x) * found
        return at_the_end(row, x0, x_s), push(memory, x0, row.h)

    return Method(step, memory=remember(2))


def _half_of_the_square(h: Array, places: list[Array], values: list[Array], known: Array) -> Array:
    """Half of the term of u² of the parabola p in `integral`, where there is one."""
    slopes = [(values[i + 1] - values[i]) / expand(places[i + 1] - places[i], values[0]) for i in range(2)]
    curvature = (slopes[1] - slopes[0]) / expand(places[2], values[0])
    return jnp.where(known > 1, expand(moments(h, 3)[2], values[0]) * curvature / 2, 0)
