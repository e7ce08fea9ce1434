"""The exact likelihood of the model whose generator is the probability-flow ODE, by the change of variables.

    log p(x) = log p_1(x_1) + integral over the way from x to x_1 of the divergence of the flow,

Source: Chen et al. 2018; Grathwohl et al. 2019 (FFJORD); Song et al. 2021, section 4.3. The divergence is the trace of
the Jacobian: exact with one product per dimension, or Hutchinson's estimate, the mean of probe · J probe over random
probes, drawn once per way, whose expectation it is.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.prediction import Denoiser
from diffusion_jax.process.base import Array, Level, Schedule, expand, level, normal
from diffusion_jax.sampling.flow import log_ratio, log_scale, probability_flow
from diffusion_jax.sampling.solve import solve

Law = Callable[[Level, Array], Array]
"""`law(level at t = 1 (scalars), x_1[B,*D]) -> log density in nats [B]`."""
PRODUCTS = 16
"""Jacobian products made at once."""


class Density(NamedTuple):
    """Of each x at t = min_t the log density, the sum of its parts, in nats."""

    terminal: Any
    """log p_1(x_1) [B]."""
    volume: Any
    """log |d x_1 / d x| [B,P] as each probe estimates it; P = 1 if it is exact."""
    x_1: Any
    """Where the flow carries x: [B,*D]."""
    calls: Any
    """Evaluations of the flow, int [B]: network calls, each with its Jacobian products."""
    ok: Any
    """Whether t = 1 was reached within the allowed calls, bool [B]."""

    @property
    def log_prob(self) -> Array:
        """log p(x) [B], the mean over the probes."""
        return self.terminal + self.volume.mean(1)


def normal_law(log_std: Array, x: Array) -> Array:
    """log N(x; 0, std² I) in nats [B]."""
    nats = 0.5 * (x * jnp.exp(-log_std)) ** 2 + log_std + 0.5 * math.log(2 * math.pi)
    return -nats.reshape(len(x), -1).sum(1)


LAWS: dict[str, Law] = {
    "prior": lambda at, x: normal_law(0.5 * jnp.logaddexp(2 * at.log_alpha, 2 * at.log_sigma), x),
    "noise": lambda at, x: normal_law(at.log_sigma, x),
}
"""Laws of x_1 by name: N(0, alpha² + sigma²), which samplers draw from; or N(0, sigma²), as score_sde has it."""


def basis(keys: Array, shape: tuple[int, ...], number: int, dtype: Any) -> Array:
    """All unit vectors [D,B,*shape], for which the sum of the products is the trace itself."""
    size = math.prod(shape)
    unit = jnp.eye(size, dtype=dtype).reshape(size, 1, *shape)
    return jnp.broadcast_to(unit, (size, len(keys), *shape))


def rademacher(keys: Array, shape: tuple[int, ...], number: int, dtype: Any) -> Array:
    """`number` probes [P,B,*shape] of random signs. Source: Hutchinson 1989."""

    def one(key: Array) -> Array:
        return jax.random.rademacher(key, (number, math.prod(shape)), dtype)

    return jnp.moveaxis(jax.vmap(one)(keys), 0, 1).reshape(number, -1, *shape)


def gaussian(keys: Array, shape: tuple[int, ...], number: int, dtype: Any) -> Array:
    """`number` standard normal probes [P,B,*shape]: unbiased too, with more variance than signs."""
    return jnp.moveaxis(normal(keys, (number, *shape), dtype), 0, 1)


PROBES: dict[str, Callable[..., Array]] = {"exact": basis, "rademacher": rademacher, "gaussian": gaussian}
"""How the trace is taken."""


def make_density(
    predict: Denoiser,
    schedule: Callable[[Any], Schedule],
    min_t: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_calls: int = 10_000,
    trace: str = "rademacher",
    probes: int = 1,
    law: Law = LAWS["prior"],
) -> Callable[..., Density]:
    """Build `density(params, keys[B], x[B,*D], label) -> Density` of x as it stands at t = min_t.

    trace: a name of PROBES; probes: their number, where they are random. The tolerances are those of `solve` on z and
    on the volume in nats per dimension.
    """

    def density(params: Any, keys: Array, x: Array, label: Array | None = None) -> Density:
        path, dims = schedule(params), math.prod(x.shape[1:])
        flow = probability_flow(lambda x, at: predict(params, x, at, label, None), path)
        directions = PROBES[trace](keys, x.shape[1:], probes, x.dtype)

        def derivative(state: tuple[Array, Array], u: Array) -> tuple[Array, Array]:
            dz, product = jax.linearize(lambda z: flow(z, u), state[0])

            def along(direction: Array) -> Array:
                return (direction * product(direction)).reshape(len(x), -1).sum(1)

            found = jax.lax.map(along, directions, batch_size=PRODUCTS).T / dims
            return dz, found.sum(1, keepdims=True) if trace == "exact" else found

        t0, t1 = jnp.full(len(x), min_t, x.dtype), jnp.ones(len(x), x.dtype)
        log_s0, log_s1 = log_scale(path, t0), log_scale(path, t1)
        width = 1 if trace == "exact" else probes
        start = x * expand(jnp.exp(-log_s0), x), jnp.zeros((len(x), width), x.dtype)
        (z, volume), calls, ok = solve(
            derivative, start, log_ratio(path, t0), log_ratio(path, t1), rtol, atol, max_calls
        )
        x_1 = z * expand(jnp.exp(log_s1), x)
        end = level(path, jnp.ones((), x.dtype))
        return Density(law(end, x_1), dims * (volume + (log_s1 - log_s0)[:, None]), x_1, calls, ok)

    return density


# From the density at min_t to bits of the data: -log p(x0) is -log p(x) plus terms.

Dequantise = Callable[..., tuple[Array, dict[str, Array]]]
"""`dequantise(at, keys[B], x0[B,*D]) -> (x[B,*D], terms)`: which x at the level `at` (scalars) of min_t stands for x0,
and the terms in nats [B], by name, that -log p(x) lacks to be -log p(x0), or a bound on it."""


def none(levels: int, decode: Decoder) -> Dequantise:
    """Data that are real numbers, as they are. The model's x0 is x/alpha at min_t, so that x = alpha x0 and
    log p(x0) = log p(x) + D log alpha: the term `scale`."""

    def dequantise(at: Level, keys: Array, x0: Array) -> tuple[Array, dict[str, Array]]:
        return jnp.exp(at.log_alpha) * x0, {"scale": jnp.full(len(x0), -x0[0].size * at.log_alpha)}

    return dequantise


def uniform(levels: int, decode: Decoder) -> Dequantise:
    """Noise, uniform over the bin of its grey level, is added to x0. In the range [-1, 1] a bin is w = 2/(levels - 1)
    wide, and the probability of a level is the integral of the density over its bin, so that

        -log P(x0) <= E[-log p(x0 + noise)] - D log w = E[-log p(x)] - D log alpha - D log w,    x = alpha (x0 + noise):

    the terms `scale` and `bins`. In bits/dim the latter is log2((levels - 1)/2), 6.994 for 256 levels.
    Source: Theis et al. 2016, section 3.1. Raises ValueError for data without levels.
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

        x, terms = none(levels, decode)(at, keys, x0 + jax.vmap(noise)(keys))
        return x, terms | {"bins": jnp.full(len(x0), -x0[0].size * math.log(width))}

    return dequantise


def process(levels: int, decode: Decoder) -> Dequantise:
    """x ~ q(x | x0) at min_t, as the network saw it in training, and the decoder says which level it came from:

        -log P(x0) <= E[-log p(x) + log q(x | x0) - log P(x0 | x)],      P(x0 | x) = decode(x/alpha, sigma²/alpha²):

    the terms `noise` and `decoder`. Tight where the network has learned that data of levels are spikes, narrower than
    a bin; where it has smoothed them, `uniform` is tighter. Source: Zheng et al. 2023, section 4.2, without truncation.
    """

    def dequantise(at: Level, keys: Array, x0: Array) -> tuple[Array, dict[str, Array]]:
        noise = normal(keys, x0.shape[1:], x0.dtype)
        x = at.alpha * x0 + at.sigma * noise
        log_q = normal_law(at.log_sigma, at.sigma * noise)
        nll = decode(x0, x / at.alpha, -at.logsnr).reshape(len(x0), -1).sum(1)
        return x, {"noise": log_q, "decoder": nll}

    return dequantise


DEQUANTISATIONS: dict[str, Callable[[int, Decoder], Dequantise]] = {
    "uniform": uniform,
    "process": process,
    "none": none,
}
"""By name; each takes the number of grey levels of the data, and their decoder."""
