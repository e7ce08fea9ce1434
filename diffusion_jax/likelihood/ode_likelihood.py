"""Likelihood under the probability-flow ODE, by the change of variables.

    log p(x) = log p_1(x_1) + integral of the divergence of the flow along the trajectory from x to x_1.

The divergence is the trace of the Jacobian: exact with one Jacobian product per dimension, or Hutchinson's unbiased
estimator, the mean of probe · J probe over random probes, which are drawn once per trajectory.

Reference: Chen et al. 2018; Grathwohl et al. 2019 (FFJORD); Song et al. 2021, section 4.3.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.prediction import Denoiser
from diffusion_jax.process.base import Array, Level, ScheduleFromParams, expand, level, normal
from diffusion_jax.sampling.flow import flow_derivative, log_ratio, log_scale
from diffusion_jax.sampling.ode_solver import solve_ode

PRODUCTS = 16
"""Jacobian products computed at once."""


TerminalLogDensity = Callable[[Level, Array], Array]
"""Log density in nats [B] of x_1 [B,*D] at the level of t = 1 (scalar fields)."""
DrawProbes = Callable[[Array, tuple[int, ...], int, Any], Array]
"""Probes for the trace of the Jacobian: (keys [B], shape, number P, dtype) -> [P,B,*shape], each example's from its own
key."""


class Density(NamedTuple):
    """Log density of x at t = min_t, by its parts in nats."""

    terminal: Any
    """log p_1(x_1) [B]."""
    volume: Any
    """log |d x_1 / d x| [B,P], an estimate per probe; P = 1 if exact."""
    x_1: Any
    """End of the trajectory [B,*D]."""
    calls: Any
    """Number of function evaluations, int [B]: network calls, each with its Jacobian products."""
    ok: Any
    """True where t = 1 was reached within the allowed calls, bool [B]."""

    @property
    def log_prob(self) -> Array:
        """log p(x) in nats [B], the mean over the probes."""
        return self.terminal + self.volume.mean(1)


def normal_log_density(log_std: Array, x: Array) -> Array:
    """Return log N(x; 0, std² I) in nats [B] for x [B,*D]."""
    nats = 0.5 * (x * jnp.exp(-log_std)) ** 2 + log_std + 0.5 * math.log(2 * math.pi)
    return -nats.reshape(len(x), -1).sum(1)


TERMINAL_LOG_DENSITIES: dict[str, TerminalLogDensity] = {
    "prior": lambda at, x: normal_log_density(0.5 * jnp.logaddexp(2 * at.log_alpha, 2 * at.log_sigma), x),
    "noise": lambda at, x: normal_log_density(at.log_sigma, x),
}
"""Log densities of x_1 by name: N(0, alpha² + sigma²), which samplers draw from; N(0, sigma²), as in score_sde."""


def unit_probes(keys: Array, shape: tuple[int, ...], number: int, dtype: Any) -> Array:
    """Return all unit vectors [D,B,*shape]: the sum of their products is the exact trace."""
    size = math.prod(shape)
    unit = jnp.eye(size, dtype=dtype).reshape(size, 1, *shape)
    return jnp.broadcast_to(unit, (size, len(keys), *shape))


def rademacher_probes(keys: Array, shape: tuple[int, ...], number: int, dtype: Any) -> Array:
    """Draw `number` probes [P,B,*shape] of random signs. Reference: Hutchinson 1989."""

    def one(key: Array) -> Array:
        return jax.random.rademacher(key, (number, math.prod(shape)), dtype)

    return jnp.moveaxis(jax.vmap(one)(keys), 0, 1).reshape(number, -1, *shape)


def gaussian_probes(keys: Array, shape: tuple[int, ...], number: int, dtype: Any) -> Array:
    """Draw `number` standard normal probes [P,B,*shape]: unbiased too, with more variance than signs."""
    return jnp.moveaxis(normal(keys, (number, *shape), dtype), 0, 1)


PROBES: dict[str, DrawProbes] = {
    "exact": unit_probes,
    "rademacher": rademacher_probes,
    "gaussian": gaussian_probes,
}
"""Trace estimators by name."""


DensityFunction = Callable[..., Density]
"""Log density under the probability-flow ODE: (params, keys [B], x [B,*D], label [B] or None) -> `Density`.

The keys are for the probes, one per example; x are examples at the level of t = min_t."""


def make_density(
    predict: Denoiser,
    schedule: ScheduleFromParams,
    min_t: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_calls: int = 10_000,
    trace: str = "rademacher",
    probes: int = 1,
    terminal: TerminalLogDensity = TERMINAL_LOG_DENSITIES["prior"],
) -> DensityFunction:
    """Make the function that computes the log density of x at t = min_t.

    Args:
        predict: the denoiser.
        schedule: params -> Schedule.
        min_t: the time of x, in [0, 1).
        rtol, atol: tolerances of `sampling.ode_solver.solve_ode`, on z and on the volume in nats per dimension.
        max_calls: greatest number of function evaluations.
        trace: a name of PROBES.
        probes: number of random probes.
        terminal: log density of x_1.
    """

    def density(params: Any, keys: Array, x: Array, label: Array | None = None) -> Density:
        path, dims = schedule(params), math.prod(x.shape[1:])
        flow = flow_derivative(lambda x, at: predict(params, x, at, label, None), path)
        directions = PROBES[trace](keys, x.shape[1:], probes, x.dtype)

        def derivative(state: tuple[Array, Array], u: Array) -> tuple[Array, Array]:
            dz, product = jax.linearize(lambda z: flow(z, u), state[0])

            def along(direction: Array) -> Array:
                return (direction * product(direction)).reshape(len(x), -1).sum(1)

            products = jax.lax.map(along, directions, batch_size=PRODUCTS).T / dims
            return dz, products.sum(1, keepdims=True) if trace == "exact" else products

        t0, t1 = jnp.full(len(x), min_t, x.dtype), jnp.ones(len(x), x.dtype)
        log_s0, log_s1 = log_scale(path, t0), log_scale(path, t1)
        width = 1 if trace == "exact" else probes
        start = x * expand(jnp.exp(-log_s0), x), jnp.zeros((len(x), width), x.dtype)
        (z, volume), calls, ok = solve_ode(
            derivative, start, log_ratio(path, t0), log_ratio(path, t1), rtol, atol, max_calls
        )
        x_1 = z * expand(jnp.exp(log_s1), x)
        end = level(path, jnp.ones((), x.dtype))
        return Density(terminal(end, x_1), dims * (volume + (log_s1 - log_s0)[:, None]), x_1, calls, ok)

    return density


Dequantise = Callable[[Level, Array, Array], tuple[Array, dict[str, Array]]]
"""Dequantisation: (level of t = min_t, keys [B], x0 [B,*D]) -> (x [B,*D] at min_t, terms in nats [B] by name).

-log p(x0), or a bound on it, is -log p(x) plus the terms."""


def no_dequantisation(levels: int, decode: Decoder) -> Dequantise:
    """No dequantisation, for data that are real numbers: x = alpha x0.

    The term `scale` is -D log alpha, since log p(x0) = log p(x) + D log alpha.
    """

    def dequantise(at: Level, keys: Array, x0: Array) -> tuple[Array, dict[str, Array]]:
        return jnp.exp(at.log_alpha) * x0, {"scale": jnp.full(len(x0), -x0[0].size * at.log_alpha)}

    return dequantise


def uniform_dequantisation(levels: int, decode: Decoder) -> Dequantise:
    """Uniform dequantisation: x0 plus uniform noise over the bin of its grey level.

    In the range [-1, 1] a bin is w = 2/(levels - 1) wide, and the probability of a level is the integral of the density
    over its bin, so that

        -log P(x0) <= E[-log p(x0 + noise)] - D log w = E[-log p(x)] - D log alpha - D log w,    x = alpha (x0 + noise):

    the terms `scale` and `bins`. In bits/dim `bins` is log2((levels - 1)/2), 6.994 for 256 levels.
    Reference: Theis et al. 2016, section 3.1. Raises ValueError for data without levels.
    """
    if levels < 2:
        raise ValueError(
            f"ode.dequantisation='uniform' is for grey levels, but the data have levels={levels}; use "
            "ode.dequantisation=none"
        )
    width = 2 / (levels - 1)

    def dequantise(at: Level, keys: Array, x0: Array) -> tuple[Array, dict[str, Array]]:
        def noise(key: Array) -> Array:
            return jax.random.uniform(key, x0.shape[1:], x0.dtype, -width / 2, width / 2)

        x, terms = no_dequantisation(levels, decode)(at, keys, x0 + jax.vmap(noise)(keys))
        return x, terms | {"bins": jnp.full(len(x0), -x0[0].size * math.log(width))}

    return dequantise


def process_dequantisation(levels: int, decode: Decoder) -> Dequantise:
    """Dequantisation by the forward process: x ~ q(x | x0) at min_t, then a decoder:

        -log P(x0) <= E[-log p(x) + log q(x | x0) - log P(x0 | x)],      P(x0 | x) = decode(x/alpha, sigma²/alpha²):

    the terms `noise` and `decoder`. Tight where the model puts the data on spikes narrower than a bin; where the model
    is smoother, `uniform` is tighter. Reference: Zheng et al. 2023, section 4.2, without truncation.
    """

    def dequantise(at: Level, keys: Array, x0: Array) -> tuple[Array, dict[str, Array]]:
        noise = normal(keys, x0.shape[1:], x0.dtype)
        x = at.alpha * x0 + at.sigma * noise
        log_q = normal_log_density(at.log_sigma, at.sigma * noise)
        nll = decode(x0, x / at.alpha, -at.logsnr).reshape(len(x0), -1).sum(1)
        return x, {"noise": log_q, "decoder": nll}

    return dequantise


DEQUANTISATIONS: dict[str, Callable[[int, Decoder], Dequantise]] = {
    "uniform": uniform_dequantisation,
    "process": process_dequantisation,
    "none": no_dequantisation,
}
"""Dequantisations by name; each takes the number of grey levels of the data, and their decoder."""
