"""Probability-flow ODE solved to a tolerance, for sampling, encoding and likelihoods.

In its usual form, dx/dt = f x - g²/2 score (Song et al. 2021, eq. 13), it is stiff at one end, large at the other and
bent at every step of a chain. Here x is scaled to variance one for data of variance one, and time is the logarithm of
the noise-to-signal ratio:

    z = x / sqrt(alpha² + sigma²),     u = log(sigma / alpha),     tan phi = sigma / alpha,
    dz/du = sin phi cos phi (cos phi eps - sin phi x0),

where the bracket is dz/dphi, the v of Salimans and Ho 2022. One equation serves every schedule, smooth wherever the
network is, and the prior of z at t = 1 is N(0, I).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.base import Array, Level, Schedule, StepCoefficients, expand, time_of
from diffusion_jax.process.gaussian import GaussianCoefficients
from diffusion_jax.sampling.base import BoundDenoiser, SamplerStep
from diffusion_jax.sampling.ode_solver import solve_ode

FlowDerivative = Callable[[Array, Array], Array]
"""Right-hand side of the ODE: (z [B,*D], u [B]) -> dz/du [B,*D]."""


def log_ratio(schedule: Schedule, t: Array) -> Array:
    """Return u = log(sigma/alpha) at t [*S], clipped to within -log(eps) of 0."""
    log_alpha, log_sigma = schedule(t)
    most = -np.log(jnp.finfo(t.dtype).eps)
    return jnp.clip(log_sigma - log_alpha, -most, most)


def log_scale(schedule: Schedule, t: Array) -> Array:
    """Return log sqrt(alpha² + sigma²) at t [*S], the log of x/z."""
    log_alpha, log_sigma = schedule(t)
    return 0.5 * jnp.logaddexp(2 * log_alpha, 2 * log_sigma)


def level_at(schedule: Schedule, u: Array) -> Level:
    """Return the level with log(sigma/alpha) = u [B].

    t is found by bisection; alpha and sigma have exactly that ratio.
    """
    t = time_of(schedule, -2 * u)
    scale = log_scale(schedule, t)
    return Level(t, scale - 0.5 * jnp.logaddexp(0, 2 * u), scale - 0.5 * jnp.logaddexp(0, -2 * u))


def flow_derivative(denoise: BoundDenoiser, schedule: Schedule) -> FlowDerivative:
    """Return dz/du of a model; one network call per evaluation."""

    def derivative(z: Array, u: Array) -> Array:
        at = level_at(schedule, u)
        scale = log_scale(schedule, at.t)
        cos, sin = jnp.exp(at.log_alpha - scale), jnp.exp(at.log_sigma - scale)
        prediction = denoise(expand(jnp.exp(scale), z) * z, at)
        v = expand(cos, z) * prediction.eps - expand(sin, z) * prediction.x0
        return expand(sin * cos, z) * v

    return derivative


def solve_flow(
    denoise: BoundDenoiser,
    schedule: Schedule,
    x: Array,
    t0: Array | float,
    t1: Array | float,
    rtol: float,
    atol: float,
    max_calls: int,
) -> tuple[Array, Array, Array]:
    """Solve the ODE for x [B,*D] from t0 to t1 (scalars or [B]): (x, calls int [B], ok bool [B]), as `solve_ode`.

    From t = 1 down it decodes noise, up to t = 1 it encodes data; each inverts the other to within the tolerance, which
    applies to z.
    """
    t0, t1 = (jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1]) for t in (t0, t1))
    u0, u1 = log_ratio(schedule, t0), log_ratio(schedule, t1)
    z = x * expand(jnp.exp(-log_scale(schedule, t0)), x)
    z, calls, ok = solve_ode(flow_derivative(denoise, schedule), z, u0, u1, rtol, atol, max_calls)
    return z * expand(jnp.exp(log_scale(schedule, t1)), x), calls, ok


def dopri5(rtol: float = 1e-5, atol: float = 1e-5, max_calls: int = 1000) -> SamplerStep:
    """Adaptive Runge-Kutta 5(4) of Dormand and Prince, then a last step to x0.

    It goes from t = 1 to the last level with noise; the levels of the grid in between do not matter. The carry is
    (network calls int [B], solved bool [B]). A sample that did not reach the end is NaN.

    Args:
        rtol, atol: tolerances per step, on x scaled to variance 1.
        max_calls: network calls per sample at most.

    Raises ValueError unless all are above 0. Reference: Song et al. 2021, section 4.3.
    """
    check(rtol, atol, max_calls, "sampler.dopri5")

    def walk(
        denoise: BoundDenoiser, schedule: Schedule, coefficients: StepCoefficients, x: Array, carry: Any
    ) -> tuple[Array, Any]:
        calls, ok = carry
        coefficients = jax.tree.map(lambda field: jnp.asarray(field, x.dtype), coefficients)
        noiseless = jnp.isneginf(coefficients.to.log_sigma[-1])
        end = jnp.where(noiseless, coefficients.at.t[-1], coefficients.to.t[-1])
        x, more, reached = solve_flow(denoise, schedule, x, coefficients.at.t[0], end, rtol, atol, max_calls)
        last = jax.tree.map(lambda field: jnp.broadcast_to(field[-1], x.shape[:1]), coefficients.at)
        x = jax.lax.cond(noiseless, lambda: denoise(x, last).x0, lambda: x)
        return jnp.where(expand(reached, x), x, jnp.nan), (calls + more + noiseless, ok & reached)

    def init_carry(x: Array) -> tuple[Array, Array]:
        return jnp.zeros(len(x), jnp.int32), jnp.ones(len(x), bool)

    settings = f"rtol={rtol:g}, atol={atol:g} in {max_calls} network calls"
    return SamplerStep(
        None, between_levels=True, init_carry=init_carry, walk=walk, solved=lambda carry: carry[1], settings=settings
    )


def check(rtol: float, atol: float, max_calls: int, section: str) -> None:
    """Raise ValueError, naming the key, unless rtol > 0, atol > 0 and max_calls > 7."""
    for name, value, least in (("rtol", rtol, 0), ("atol", atol, 0), ("max_calls", max_calls, 7)):
        if not value > least:
            raise ValueError(f"{section}.{name}={value} must be above {least}")


def inversion(
    denoise: BoundDenoiser, reverse: Any, coefficients: GaussianCoefficients, x: Array, carry: Any, keys: Array
) -> tuple[Array, Any]:
    """Step of DDIM inversion, from s up to t: x_t = alpha_t x0 + sigma_t eps, both predicted at x_s.

    It inverts DDIM (eta = 0) to first order in the step. One network call.
    Reference: Song et al. 2021 (DDIM), section 4.3.
    """
    prediction = denoise(x, coefficients.to)
    return expand(coefficients.at.alpha, x) * prediction.x0 + expand(coefficients.at.sigma, x) * prediction.eps, carry


def upwards(coefficients: GaussianCoefficients) -> GaussianCoefficients:
    """Return the coefficients [N] of a grid, reversed for `inversion`, without a noiseless step."""
    kept = np.isfinite(np.asarray(coefficients.to.log_sigma))
    return jax.tree.map(lambda field: np.asarray(field)[kept][::-1], coefficients)
