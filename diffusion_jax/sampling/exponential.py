"""Exponential integrators of the probability-flow ODE in lambda = log(alpha/sigma): DPM-Solver++ and UniPC.

The linear part is solved exactly, which leaves an integral of the predicted x0 over a step of length h,

    x_s = sigma_s/sigma_t x_t + alpha_s h int_0^1 e^(-(1 - u) h) x0(u) du,

in which a polynomial in u stands for x0(u): through the prediction at t (u = 0) and the predictions of earlier steps
(u < 0). A step that ends without noise (h = inf) takes the predicted x0.
Reference: Lu et al. 2022 (DPM-Solver++), eq. 8.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.base import Array, Level, Schedule, StepCoefficients, expand, normal
from diffusion_jax.sampling.base import BoundDenoiser, InitCarry, SamplerStep, same_coefficients


class OrderedCoefficients(NamedTuple):
    """Coefficients of a multistep step, and the largest order that it may have."""

    at: Level
    to: Level
    log_sigma_ratio: Array
    h: Array
    order: Array
    """Number of steps from this one to the end of the grid."""


class History(NamedTuple):
    """Carry of a multistep method: predictions of the steps before, the newest first."""

    x0: tuple[Array, ...]
    """[B,*D] each."""
    h: tuple[Array, ...]
    """Lengths [B] of the steps that were taken from them."""
    known: Array
    """Number of predictions so far."""


def empty_history(length: int) -> InitCarry:
    """Return `init_carry` of a method that uses `length` earlier predictions."""

    def init_carry(x: Array) -> History:
        nothing = jnp.zeros_like(x), jnp.ones(len(x), x.dtype)
        return History((nothing[0],) * length, (nothing[1],) * length, jnp.zeros((), jnp.int32))

    return init_carry


def push(history: History, x0: Array, h: Array) -> History:
    """Return the history after a step of length h from a prediction."""
    length = len(history.x0)
    return History((x0, *history.x0)[:length], (h, *history.h)[:length], jnp.minimum(history.known + 1, length))


def moments(h: Array, number: int) -> list[Array]:
    """Return m_j = h int_0^1 e^(-(1 - u) h) u^j du [B] for j < number: 1 - e^-h, 1 - m_0/h, 1 - 2 m_1/h, …

    The recursion cancels where h is small; there Gauss's rule with 8 nodes is exact to rounding.
    """
    values = [-jnp.expm1(-h)]
    nodes, weights = (np.polynomial.legendre.leggauss(8) + np.array([[1], [0]])) / 2
    small = jnp.minimum(h, 1)
    for j in range(1, number):
        rule = jnp.zeros_like(h)
        for u, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            rule += small * weight * jnp.exp((u - 1) * small) * u**j
        values.append(jnp.where(h < 1, rule, 1 - j * values[-1] / h))
    return values


def integral(h: Array, places: list[Array], values: list[Array], known: Array) -> Array:
    """Return h int_0^1 e^(-(1 - u) h) p(u) du [B,*D] of the polynomial p through values [B,*D] at places u [B].

    The polynomial is in Newton's form, so that one through fewer points is a shorter sum.

    Args:
        h: length of the step [B].
        places: the points u, the first of them 0.
        values: of p at these points.
        known: number of points that are used, the first ones.
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


def at_the_end(coefficients: StepCoefficients, x0: Array, x_s: Array) -> Array:
    """Return x0 where the step ends without noise, x_s elsewhere."""
    return jnp.where(jnp.isneginf(expand(coefficients.to.log_sigma, x0)), x0, x_s)


def earlier(history: History, h: Array) -> list[Array]:
    """Return the places u of the predictions of a history, in units of h: -h_1/h, -(h_1 + h_2)/h, …"""
    return [-sum(history.h[: i + 1], jnp.zeros_like(h)) / h for i in range(len(history.h))]


def finite(h: Array) -> Array:
    """Return h, or 1 where h is infinite. No step uses that 1."""
    return jnp.where(jnp.isfinite(h), h, 1)


def dpmpp_1s() -> SamplerStep:
    """DPM-Solver++(1S), x0(u) constant: x_s = sigma_s/sigma_t x + alpha_s (1 - e^-h) x0.

    The same step as DDIM with eta = 0. One network call. Reference: Lu et al. 2022 (DPM-Solver++), section 4.
    """

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        x0 = denoise(x, coefficients.at).x0
        x_s = (
            expand(jnp.exp(coefficients.log_sigma_ratio), x) * x
            - expand(coefficients.to.alpha * jnp.expm1(-coefficients.h), x) * x0
        )
        return at_the_end(coefficients, x0, x_s), carry

    return SamplerStep(step)


def with_order(schedule: Schedule, coefficients: StepCoefficients) -> OrderedCoefficients:
    """Return coefficients [N] with the orders N, …, 2, 1."""
    left = len(coefficients.h) - jnp.arange(len(coefficients.h))
    return OrderedCoefficients(
        coefficients.at, coefficients.to, coefficients.log_sigma_ratio, coefficients.h, left.astype(float)
    )


def usable(carry: History, coefficients: StepCoefficients, back: int = 0) -> Array:
    """Return the number of earlier predictions for the step `back` steps ago."""
    if isinstance(coefficients, OrderedCoefficients):
        return jnp.minimum(carry.known - back, coefficients.order[0] + back - 1)
    return carry.known - back


def dpmpp_2m(lower_order_final: bool = False) -> SamplerStep:
    """DPM-Solver++(2M): D = x0 + h/(2 h_1) (x0 - x0_1) in place of x0 in the step of `dpmpp_1s`.

    Second order; one network call per step.

    Args:
        lower_order_final: step i of N has at most order N + 1 - i, which is more stable for few steps. The public codes
            do so below 10 or 15 steps.

    Reference: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """
    return _two_steps(0.0, lower_order_final)


def dpmpp_2m_sde(eta: float = 1.0, lower_order_final: bool = False) -> SamplerStep:
    """SDE-DPM-Solver++(2M), of the reverse SDE, with D of `dpmpp_2m`.

    x_s = sigma_s/sigma_t e^(-eta h) x + alpha_s (1 - e^(-(1 + eta) h)) D + v noise, v = sigma_s sqrt(1 - e^(-2 eta h)).
    With eta = 1 the first step is ancestral sampling with the posterior variance. lower_order_final: see `dpmpp_2m`.
    One network call per step. Raises ValueError unless 0 <= eta <= 1.
    Reference: Lu et al. 2022 (DPM-Solver++), appendix; for eta k-diffusion.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"sampler.dpmpp_2m_sde.eta={eta} must be in [0, 1]")
    return _two_steps(eta, lower_order_final)


def _two_steps(eta: float, lower_order_final: bool) -> SamplerStep:
    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: History, keys: Array
    ) -> tuple[Array, History]:
        x0 = denoise(x, coefficients.at).x0
        half_ratio = jnp.where(usable(carry, coefficients) > 0, finite(coefficients.h) / (2 * carry.h[0]), 0)
        d = x0 + expand(half_ratio, x) * (x0 - carry.x0[0])
        x_s = expand(jnp.exp(coefficients.log_sigma_ratio - (eta * coefficients.h if eta else 0)), x) * x
        x_s -= expand(coefficients.to.alpha * jnp.expm1(-(1 + eta) * coefficients.h), x) * d
        if eta:
            scale = coefficients.to.sigma * jnp.sqrt(-jnp.expm1(-2 * eta * coefficients.h))
            x_s += expand(scale, x) * normal(keys, x.shape[1:], x.dtype)
        return at_the_end(coefficients, x0, x_s), push(carry, x0, coefficients.h)

    return SamplerStep(
        step, init_carry=empty_history(1), prepare=with_order if lower_order_final else same_coefficients
    )


def dpmpp_3m(second_difference: str = "whole", lower_order_final: bool = False) -> SamplerStep:
    """DPM-Solver++(3M), x0(u) a parabola through three predictions, integrated exactly: third order.

    One network call per step.

    Args:
        second_difference: "whole": exact integral, order 3. "half": the Heun or Taylor form of the public codes, which
            halves the u² term of the parabola and has order 2. The defaults of diffusers and DPM-Solver are "half"
            with one difference: their second step uses the midpoint rule.
        lower_order_final: see `dpmpp_2m`.

    Raises ValueError for another second_difference. Reference: Lu et al. 2022 (DPM-Solver++), multistep of order 3.
    """
    if second_difference not in ("whole", "half"):
        raise ValueError(f"sampler.dpmpp_3m.second_difference={second_difference!r} is not known; use whole or half")

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: History, keys: Array
    ) -> tuple[Array, History]:
        x0 = denoise(x, coefficients.at).x0
        places = [jnp.zeros_like(coefficients.h), *earlier(carry, finite(coefficients.h))]
        known = usable(carry, coefficients)
        integrated = integral(coefficients.h, places, [x0, *carry.x0], known + 1)
        if second_difference == "half":
            integrated -= _half_of_the_square(coefficients.h, places, [x0, *carry.x0], known)
        x_s = expand(jnp.exp(coefficients.log_sigma_ratio), x) * x + expand(coefficients.to.alpha, x) * integrated
        return at_the_end(coefficients, x0, x_s), push(carry, x0, coefficients.h)

    return SamplerStep(
        step, init_carry=empty_history(2), prepare=with_order if lower_order_final else same_coefficients
    )


def _half_of_the_square(h: Array, places: list[Array], values: list[Array], known: Array) -> Array:
    """Return half of the u² term of `integral` for three points, else 0."""
    slopes = [(values[i + 1] - values[i]) / expand(places[i + 1] - places[i], values[0]) for i in range(2)]
    curvature = (slopes[1] - slopes[0]) / expand(places[2], values[0])
    return jnp.where(known > 1, expand(moments(h, 3)[2], values[0]) * curvature / 2, 0)


def unipc(order: int = 2, lower_order_final: bool = False) -> SamplerStep:
    """UniPC: a multistep predictor, and a corrector that needs no further network call.

    The prediction at t first corrects the step that led to t, as one more point u = 1 of its polynomial; then the
    predictor continues from the corrected x. The weights are exact (UniPC_v of the paper, whose B(h) approximate those
    of low order). One network call per step.

    Args:
        order: number p of predictions in the polynomial, 1, 2 or 3; the order of convergence is p + 1.
        lower_order_final: step i of N has at most N + 1 - i predictions in its polynomial, and so has its correction.

    Raises ValueError for another order. Reference: Zhao et al. 2023, section 3 and appendix.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"sampler.unipc.order={order} is not known; use 1, 2 or 3")

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: History, keys: Array
    ) -> tuple[Array, History]:
        x0 = denoise(x, coefficients.at).x0

        last, before = finite(carry.h[0]), History(carry.x0[1:], carry.h[1:], carry.known - 1)
        zero, past = jnp.zeros_like(last), earlier(before, last)
        points = usable(carry, coefficients, back=1) + 1
        predicted = integral(last, [zero, *past], list(carry.x0), points)
        corrected = integral(last, [zero, zero + 1, *past], [carry.x0[0], x0, *carry.x0[1:]], points + 1)
        correction = expand(coefficients.at.alpha, x) * (corrected - predicted)
        x = x + jnp.where((carry.known > 0) & jnp.isfinite(expand(carry.h[0], x)), correction, 0)

        places = [zero, *earlier(carry, finite(coefficients.h))][:order]
        integrated = integral(coefficients.h, places, [x0, *carry.x0][:order], usable(carry, coefficients) + 1)
        x_s = expand(jnp.exp(coefficients.log_sigma_ratio), x) * x + expand(coefficients.to.alpha, x) * integrated
        return at_the_end(coefficients, x0, x_s), push(carry, x0, coefficients.h)

    return SamplerStep(
        step, init_carry=empty_history(order), prepare=with_order if lower_order_final else same_coefficients
    )
