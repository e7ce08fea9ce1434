"""Binomial process: bits replaced one by one by independent bits of rate p.

A bit is -1 or +1, the two grey levels in the range of the model, and a distribution is (probability of +1, None). With
gamma = alpha² of a variance-preserving chain, the share of the bits that still equal x0, and beta the share
that a step t <- s redraws,

    q(x_t = 1 | x0) = gamma_t [x0 = 1] + (1 - gamma_t) p,      q(x_t = 1 | x_s) = (1 - beta) [x_s = 1] + beta p,

and the posterior is exact, by Bayes' rule on the two values of x_s. The rates beta_k = 1/(T - k + 1) are
`schedules.harmonic`: gamma(k/T) = 1 - k/T.

Reference: Sohl-Dickstein et al. 2015, table C.1 and section 2.4.1.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax.scipy.special import entr, ndtr, xlog1py, xlogy

from diffusion_jax.process.base import (
    Array,
    Entropies,
    KeptCoefficients,
    Level,
    Schedule,
    expand,
    kept_coefficients,
    level,
    normal,
)


@dataclasses.dataclass(frozen=True)
class BinomialProcess:
    """Binomial process towards independent bits, an implementation of `base.Process`.

    Coefficients are `KeptCoefficients`, distributions (probability of +1, None). Raises ValueError if the rate is
    not in (0, 1).
    """

    gaussian: ClassVar[bool] = False
    draws_x0: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    levels: ClassVar[int] = 2
    rate: float = 0.5
    """Probability of +1 in pure noise, in (0, 1)."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(
                f"process.binomial.rate={self.rate} must lie between 0 and 1: it is the probability of +1 in pure noise"
            )

    def prior(self, schedule: Schedule, keys: Array, shape: tuple[int, ...]) -> Array:
        """Draw independent bits [B, *shape] of the rate, with one key per example."""
        noise = normal(keys, shape)
        return self.draw((jnp.full(noise.shape, self.rate, noise.dtype), None), noise)

    def prior_kl(self, schedule: Schedule, x0: Array) -> Array:
        """Return KL(q(x_1 | x0) || p(x_1)) in nats [B]."""
        end = level(schedule, jnp.ones((), x0.dtype))
        at_end = self._noised(2 * end.log_alpha, _probability(x0))
        return self.kl((at_end, None), (jnp.full(x0.shape, self.rate, x0.dtype), None))

    def prior_entropy(self, schedule: Schedule, x0: Array) -> Array:
        """Return the entropy of independent bits of the rate, in nats [B]."""
        return _entropy(jnp.full(x0.shape, self.rate, x0.dtype))

    def corrupt(self, level: Level, x0: Array, noise: Array) -> Array:
        """Return bits of q(x_t | x0), from standard normal noise."""
        return self.draw((self._noised(2 * level.log_alpha, _probability(x0)), None), noise)

    def coefficients(self, schedule: Schedule, times: Array) -> KeptCoefficients:
        """Return the coefficients [N] of a falling time grid [N+1], in the dtype of `times`."""
        return kept_coefficients(schedule, times)

    def posterior(self, coefficients: KeptCoefficients, x0: Array, x_t: Array) -> tuple[Array, None]:
        """Return q(x_s = 1 | x_t, x0), proportional to q(x_s | x0) q(x_t | x_s).

        x0 may also be a mean of bits, 2 P(x0 = +1) - 1 in [-1, 1]: the result is then the mixture of both posteriors.
        """
        seen = _probability(x_t)
        if_one, if_zero = (self._noised(coefficients.log_kept, jnp.full_like(seen, one)) for one in (1.0, 0.0))
        like_one, like_zero = (seen * q + (1 - seen) * (1 - q) for q in (if_one, if_zero))

        def given(bit: float) -> Array:
            before = self._noised(2 * coefficients.to.log_alpha, jnp.full_like(seen, bit))
            return like_one * before / (like_one * before + like_zero * (1 - before))

        belief = _probability(x0)
        return belief * given(1.0) + (1 - belief) * given(0.0), None

    def kl(self, p: tuple[Array, None], q: tuple[Array, None]) -> Array:
        """Return KL(p || q) in nats [B], summed over the bits.

        KL = p log(p/q) + (1 - p) log((1 - p)/(1 - q)) per bit. q is kept off 0 and 1 by the smallest numbers of its
        dtype.
        """
        one = p[0]
        other = jnp.clip(q[0], jnp.finfo(one.dtype).tiny, 1 - jnp.finfo(one.dtype).eps)
        nats = xlogy(one, one) - xlogy(one, other) + xlog1py(1 - one, -one) - xlog1py(1 - one, -other)
        return nats.reshape(len(nats), -1).sum(1)

    def draw(self, distribution: tuple[Array, None], noise: Array) -> Array:
        """Return +1 where the noise lies below the quantile of the probability of +1, else -1.

        Where the noise is 0 this is the likelier bit; NaN where the probability is.
        """
        bits = jnp.where(ndtr(noise) < distribution[0], 1.0, -1.0).astype(noise.dtype)
        return jnp.where(jnp.isnan(distribution[0]), jnp.nan, bits)

    def entropies(self, coefficients: KeptCoefficients, x0: Array) -> Entropies:
        """Return the conditional entropies around a step, of the bits that q makes of x0."""
        before = self._noised(2 * coefficients.to.log_alpha, _probability(x0))
        step = sum(
            weight * _bit_entropy(self._noised(coefficients.log_kept, jnp.full_like(x0, bit)))
            for weight, bit in ((before, 1.0), (1 - before, 0.0))
        )
        at = self._noised(2 * coefficients.at.log_alpha, _probability(x0))
        return Entropies(_entropy(at), _entropy(before), jnp.asarray(step).reshape(len(x0), -1).sum(1))

    def _noised(self, log_kept: Array, one: Array) -> Array:
        """Return P(+1) after bits with P(+1) = one are kept with probability exp(log_kept), else redrawn."""
        log_kept = expand(log_kept, one)
        return jnp.exp(log_kept) * one - jnp.expm1(log_kept) * self.rate


def _probability(x: Array) -> Array:
    """Return P(+1) of a bit, 0 or 1, or of a mean of bits."""
    return (1 + x) / 2


def _bit_entropy(rate: Array) -> Array:
    """Return -p log p - (1 - p) log(1 - p) in nats."""
    return entr(rate) + entr(1 - rate)


def _entropy(rate: Array) -> Array:
    """Return the entropy of independent bits in nats [B]."""
    return _bit_entropy(rate).reshape(len(rate), -1).sum(1)
