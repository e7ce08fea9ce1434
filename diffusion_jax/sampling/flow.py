"""The probability-flow ODE solved to a tolerance: from noise to data, from data to noise, with likelihood on the way.

In its plain form, dx/dt = f x - g²/2 score (Song et al. 2021, eq. 13), it is stiff at one end, large at the other and
bent at every step of a chain. Here x is scaled to variance one for data of variance one, and time is the logarithm of
the noise-to-signal ratio:

    z = x / sqrt(alpha² + sigma²),     u = log(sigma / alpha),     tan phi = sigma / alpha,
    dz/du = sin phi cos phi (cos phi eps - sin phi x0),

the bracket being dz/dphi, the v of Salimans and Ho 2022. One equation serves every schedule, smooth wherever the
network is, and the prior of z at t = 1 is N(0, I).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, Schedule, expand
from diffusion_jax.process.gaussian import GaussianCoefficients
from diffusion_jax.sampling.grids import time_of
from diffusion_jax.sampling.loop import BoundPredict, Method
from diffusion_jax.sampling.solve import solve

Flow = Callable[[Array, Array], Array]
"""`flow(z[B,*D], u[B]) -> dz/du[B,*D]`."""


def log_ratio(schedule: Schedule, t: Array) -> Array:
    """u = log(sigma/alpha) at t [*S]; without noise or signal, as far as float arithmetic can tell from there."""
    log_alpha, log_sigma = schedule(t)
    most = -np.log(jnp.finfo(t.dtype).eps)
    return jnp.clip(log_sigma - log_alpha, -most, most)


def log_scale(schedule: Schedule, t: Array) -> Array:
    """log sqrt(alpha² + sigma²) at t [*S], the factor between x and z."""
    log_alpha, log_sigma = schedule(t)
    return 0.5 * jnp.logaddexp(2 * log_alpha, 2 * log_sigma)


def level_at(schedule: Schedule, u: Array) -> Level:
    """The level with log(sigma/alpha) = u [B]: its t by bisection, and alpha and sigma in exactly that ratio."""

    t = time_of(schedule, -2 * u)
    scale = log_scale(schedule, t)
    return Level(t, scale - 0.5 * jnp.logaddexp(0, 2 * u), scale - 0.5 * jnp.logaddexp(0, -2 * u))


def probability_flow(predict: BoundPredict, schedule: Schedule) -> Flow:
    """dz/du of a model; one network call."""

    def flow(z: Array, u: Array) -> Array:
        at = level_at(schedule, u)
        scale = log_scale(schedule, at.t)
        cos, sin = jnp.exp(at.log_alpha - scale), jnp.exp(at.log_sigma - scale)
        prediction = predict(expand(jnp.exp(scale), z) * z, at)
        v = expand(cos, z) * prediction.eps - expand(sin, z) * prediction.x0
        return expand(sin * cos, z) * v

    return flow


def carry(
    predict: BoundPredict,
    schedule: Schedule,
    x: Array,
    t0: Array | float,
    t1: Array | float,
    rtol: float,
    atol: float,
    max_calls: int,
) -> tuple[Array, Array, Array]:
    """x [B,*D] at t0 (scalar or [B]) carried along the flow to t1: (x, calls int[B], ok bool[B]), as of `solve`.

    From t = 1 down it decodes noise, up to t = 1 it encodes data; each undoes the other to within the tolerance, which
    is one on z.
    """
    t0, t1 = (jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1]) for t in (t0, t1))
    u0, u1 = log_ratio(schedule, t0), log_ratio(schedule, t1)
    z = x * expand(jnp.exp(-log_scale(schedule, t0)), x)
    z, calls, ok = solve(probability_flow(predict, schedule), z, u0, u1, rtol, atol, max_calls)
    return z * expand(jnp.exp(log_scale(schedule, t1)), x), calls, ok


def dopri5(rtol: float = 1e-5, atol: float = 1e-5, max_calls: int = 1000) -> Method:
    """Dormand and Prince's pair from the first level of a grid to its last with noise, then the predicted x0.

    The levels between them do not matter. The memory is (calls int[B], ok bool[B]); a sample that did not get there
    becomes nan. Network calls as many as it takes. Source: Song et al. 2021, section 4.3. Raises ValueError unless the
    tolerances are above 0.
    """
    check(rtol, atol, max_calls, "sampler.dopri5")

    def step(*_: Any) -> Any:
        raise NotImplementedError("dopri5 walks by itself")

    def walk(predict: BoundPredict, schedule: Schedule, rows: Any, x: Array, memory: Any) -> tuple[Array, Any]:
        calls, ok = memory
        rows = jax.tree.map(lambda field: jnp.asarray(field, x.dtype), rows)
        noiseless = jnp.isneginf(rows.to.log_sigma[-1])
        end = jnp.where(noiseless, rows.at.t[-1], rows.to.t[-1])
        x, more, reached = carry(predict, schedule, x, rows.at.t[0], end, rtol, atol, max_calls)
        last = jax.tree.map(lambda field: jnp.broadcast_to(field[-1], x.shape[:1]), rows.at)
        x = jax.lax.cond(noiseless, lambda: predict(x, last).x0, lambda: x)
        return jnp.where(expand(reached, x), x, jnp.nan), (calls + more + noiseless, ok & reached)

    def memory(x: Array) -> tuple[Array, Array]:
        return jnp.zeros(len(x), jnp.int32), jnp.ones(len(x), bool)

    return Method(step, memory=memory, walk=walk)


def check(rtol: float, atol: float, max_calls: int, section: str) -> None:
    """Raise ValueError for options of `solve` that make no sense."""
    for name, value, least in (("rtol", rtol, 0), ("atol", atol, 0), ("max_calls", max_calls, 7)):
        if not value > least:
            raise ValueError(f"{section}.{name}={value} must be above {least}")


def inversion(
    predict: BoundPredict, reverse: Reverse | None, row: GaussianCoefficients, x: Array, memory: Any, keys: Array
) -> tuple[Array, Any]:
    """A step of DDIM upwards, from the lower level of a row to the higher: x_t = alpha_t x0 + sigma_t eps, both at x_s.

    Undoes DDIM (eta = 0) to first order in the step. One network call. Source: Song et al. 2021 (DDIM), section 4.3.
    """
    prediction = predict(x, row.to)
    return expand(row.at.alpha, x) * prediction.x0 + expand(row.at.sigma, x) * prediction.eps, memory


def upwards(rows: GaussianCoefficients) -> GaussianCoefficients:
    """The rows [N] of a falling grid in the order in which `inversion` takes them, without a step to no noise."""
    kept = np.isfinite(np.asarray(rows.to.log_sigma))
    return jax.tree.map(lambda field: np.asarray(field)[kept][::-1], rows)
