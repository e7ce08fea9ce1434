"""Decoders, the last term of the variational bound: -log p(x0 | mean, log_var) in nats.

x0 lies on the grid of `levels` grey levels in [-1, 1], 2/(levels - 1) apart. Over all levels the probabilities of
`bins` and `softmax` sum to one; `density` is for data that are real numbers.
"""

import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from diffusion_jax.declarations import declare
from diffusion_jax.process.base import Array


class Decoder(Protocol):
    """Decoder p(x0 | mean, log_var), factorised over the data dimensions."""

    def __call__(self, x0: Array, mean: Array, log_var: Array, /) -> Array:
        """Return -log p(x0 | mean, log_var) in nats [B,*D] for x0 in [-1, 1]; log_var is broadcast to x0."""


def bins(levels: int) -> Decoder:
    """Decoder by bins: the Gaussian mass between the midpoints of neighbouring levels.

    The outermost bins are open. log(Phi(b) - Phi(a)), computed from log Phi in the tail where it is exact.
    Raises ValueError for fewer than 2 levels. Reference: Ho et al. 2020, eq. 13.
    """
    half = 1 / _steps(levels)

    def decode(x0: Array, mean: Array, log_var: Array) -> Array:
        scale = jnp.exp(-0.5 * log_var)
        lowest, highest = x0 < half - 1, x0 > 1 - half
        turned = highest | (~lowest & (x0 > mean))  # by symmetry, to have the bin in the left tail
        distance = jnp.where(turned, mean - x0, x0 - mean)
        log_upper = log_ndtr((distance + half) * scale)
        log_lower = log_ndtr((distance - half) * scale)
        least = -jnp.finfo(x0.dtype).eps  # log share of a tail: the mass of narrower bins would be lost to rounding
        difference = jnp.where(lowest | highest, -jnp.inf, jnp.minimum(log_lower - log_upper, least))
        return -(log_upper + jnp.log(-jnp.expm1(difference)))

    return decode


def bins_tanh(levels: int) -> Decoder:
    """Decoder by bins with an approximate Phi, off by up to 1.8e-4.

    Phi(x) = (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))/2. Masses are at least 1e-12. For comparison with published values
    that use this approximation. Raises ValueError for fewer than 2 levels.
    Reference: the public code of Ho et al. 2020.
    """
    half = 1 / _steps(levels)

    def phi(x: Array) -> Array:
        return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def decode(x0: Array, mean: Array, log_var: Array) -> Array:
        scale = jnp.exp(-0.5 * log_var)
        upper = jnp.where(x0 > 1 - half, 1.0, phi((x0 - mean + half) * scale))
        lower = jnp.where(x0 < half - 1, 0.0, phi((x0 - mean - half) * scale))
        return -jnp.log(jnp.maximum(upper - lower, 1e-12))

    return decode


def softmax(levels: int) -> Decoder:
    """Decoder by the Gaussian density at the levels, normalised over all levels.

    Raises ValueError for fewer than 2 levels. Reference: Kingma et al. 2021, eq. 12.
    """
    steps = _steps(levels)
    grid = [2 * i / steps - 1 for i in range(levels)]

    def decode(x0: Array, mean: Array, log_var: Array) -> Array:
        def logit(level: Array) -> Array:
            return -0.5 * jnp.exp(-log_var) * (level - mean) ** 2

        every = jax.vmap(logit, out_axes=-1)(jnp.asarray(grid, x0.dtype))
        return jax.nn.logsumexp(every, axis=-1) - logit(x0)

    return decode


@declare(real=True)
def density(levels: int = 0) -> Decoder:
    """Decoder by the Gaussian density, for data that are real numbers; `levels` is not used."""
    return lambda x0, mean, log_var: 0.5 * (math.log(2 * math.pi) + log_var + (x0 - mean) ** 2 * jnp.exp(-log_var))


def _steps(levels: int) -> int:
    if levels < 2:
        raise ValueError(
            f"bound.decoder: bins, bins_tanh and softmax are for grey levels, but the data have levels={levels}; use "
            "bound.decoder=density"
        )
    return levels - 1


DECODERS: dict[str, Callable[[int], Decoder]] = {
    "bins": bins,
    "bins_tanh": bins_tanh,
    "softmax": softmax,
    "density": density,
}
"""Decoders by name; each takes the number of grey levels of the data."""
