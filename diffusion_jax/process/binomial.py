"""The binomial process: bits that are forgotten one by one, towards independent bits of rate p.

A bit is -1 or +1, the two grey levels in the range of the model, and a law is (rate, None), the probability of +1. With
gamma = alpha² of a variance-preserving chain, the share of the bits that are still those of x0, and beta the share
that a step t <- s draws anew,

    q(x_t = 1 | x0) = gamma_t [x0 = 1] + (1 - gamma_t) p,      q(x_t = 1 | x_s) = (1 - beta) [x_s = 1] + beta p,

and the posterior is exact, by Bayes on the two values of x_s. Sohl-Dickstein et al. 2015, table C.1; the rates of their
section 2.4.1, beta_k = 1/(T - k + 1), are `schedules.harmonic`: gamma(k/T) = 1 - k/T.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import entr, ndtr, xlog1py, xlogy

from diffusion_jax.process.base import Array, Entropies, Level, Process, Schedule, expand, level, normal


class Row(NamedTuple):
    """One step t -> s of a time grid (fields scalar, [B], or stacked [N] as `coefficients` returns them)."""

    at: Level
    """The level t, where the step starts."""
    to: Level
    """The level s < t, where it ends."""
    log_kept: Array
    """log(gamma_t / gamma_s), of the bits that the forward step s -> t leaves alone."""


def binomial(rate: float = 0.5) -> Process:
    """The binomial process towards bits of a rate in (0, 1), as the functions of `Process`.

    x0 of `posterior` may also be a belief, the mean 2 P(x0 = +1) - 1 in [-1, 1]: the law is then the mixture of the two
    posteriors. Raises ValueError if the rate is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"process.binomial.rate={rate} must lie between 0 and 1: it is that of the bits of pure noise")

    def noised(log_kept: Array, one: Array) -> Array:
        """P(+1) after bits, or beliefs, P(+1) = one, were kept with probability exp(log_kept) or else drawn anew."""
        log_kept = expand(log_kept, one)
        return jnp.exp(log_kept) * one - jnp.expm1(log_kept) * rate

    def prior(schedule: Schedule, keys: Array, shape: tuple[int, ...]) -> Array:
        noise = normal(keys, shape)
        return _draw((jnp.full(noise.shape, rate, noise.dtype), None), noise)

    def prior_kl(schedule: Schedule, x0: Array) -> Array:
        end = level(schedule, jnp.ones((), x0.dtype))
        return _kl((noised(2 * end.log_alpha, _chance(x0)), None), (jnp.full(x0.shape, rate, x0.dtype), None))

    def corrupt(level: Level, x0: Array, noise: Array) -> Array:
        """Bits of q(x_t | x0), from standard normal noise."""
        return _draw((noised(2 * level.log_alpha, _chance(x0)), None), noise)

    def posterior(row: Row, x0: Array, x_t: Array) -> tuple[Array, None]:
        """q(x_s = 1 | x_t, x0), the prior q(x_s | x0) times the likelihood q(x_t | x_s) of its two values."""
        seen = _chance(x_t)
        if_one, if_zero = (noised(row.log_kept, jnp.full_like(seen, one)) for one in (1.0, 0.0))
        like_one, like_zero = (seen * q + (1 - seen) * (1 - q) for q in (if_one, if_zero))

        def given(bit: float) -> Array:
            before = noised(2 * row.to.log_alpha, jnp.full_like(seen, bit))
            return like_one * before / (like_one * before + like_zero * (1 - before))

        belief = _chance(x0)
        return belief * given(1.0) + (1 - belief) * given(0.0), None

    def prior_entropy(schedule: Schedule, x0: Array) -> Array:
        return _entropy(jnp.full(x0.shape, rate, x0.dtype))

    def entropies(row: Row, x0: Array) -> Entropies:
        """Of bits that q makes of x0."""
        before = noised(2 * row.to.log_alpha, _chance(x0))
        of_step = sum(
            weight * _bit_entropy(noised(row.log_kept, jnp.full_like(x0, bit)))
            for weight, bit in ((before, 1.0), (1 - before, 0.0))
        )
        at = noised(2 * row.at.log_alpha, _chance(x0))
        return Entropies(_entropy(at), _entropy(before), jnp.asarray(of_step).reshape(len(x0), -1).sum(1))

    return Process(
        prior=prior,
        prior_kl=prior_kl,
        corrupt=corrupt,
        coefficients=_coefficients,
        posterior=posterior,
        kl=_kl,
        draw=_draw,
        prior_entropy=prior_entropy,
        entropies=entropies,
    )


def _chance(x: Array) -> Array:
    """P(+1) of a bit, 0 or 1, or of a belief."""
    return (1 + x) / 2


def _coefficients(schedule: Schedule, times: Array) -> Row:
    """Rows [N] of a falling time grid [N+1], in the dtype of `times`."""
    at, to = level(schedule, times[:-1]), level(schedule, times[1:])
    return Row(at, to, 2 * (at.log_alpha - to.log_alpha))


def _draw(law: tuple[Array, None], noise: Array) -> Array:
    """+1 where the normal noise lies below the quantile of the rate, -1 elsewhere; the likelier bit where it is 0."""
    return jnp.where(ndtr(noise) < law[0], 1.0, -1.0).astype(noise.dtype)


def _kl(p: tuple[Array, None], q: tuple[Array, None]) -> Array:
    """KL(p || q) in nats [B], summed over the bits: p log(p/q) + (1 - p) log((1 - p)/(1 - q)), q off 0 and 1."""
    one = p[0]
    other = jnp.clip(q[0], jnp.finfo(one.dtype).tiny, 1 - jnp.finfo(one.dtype).eps)
    nats = xlogy(one, one) - xlogy(one, other) + xlog1py(1 - one, -one) - xlog1py(1 - one, -other)
    return nats.reshape(len(nats), -1).sum(1)


def _bit_entropy(rate: Array) -> Array:
    """-p log p - (1 - p) log(1 - p) in nats."""
    return entr(rate) + entr(1 - rate)


def _entropy(rate: Array) -> Array:
    """Of independent bits, in nats [B]."""
    return _bit_entropy(rate).reshape(len(rate), -1).sum(1)
