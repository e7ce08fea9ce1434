"""Categorical process: values of K levels replaced one by one by noise.

The noise is uniform or absorbing (a mask). A state is one of the K levels or, for absorbing noise, the mask, one step
above the highest level. With gamma = alpha² of a variance-preserving schedule, the share of the values that still equal
x0, and pi the distribution of the noise,

    q(x_t = j | x0 = k) = gamma_t [j = k] + (1 - gamma_t) pi_j,

and likewise from s to t with gamma_t / gamma_s. pi is uniform over the levels, or 1 on the mask. The posterior follows
from Bayes' rule. For a belief about x0, probabilities p_k, it is the mixture of the posteriors of all levels:

    q(x_s = j | x_t = i)  ~  q(x_t = i | x_s = j) (gamma_s w_j + (1 - gamma_s) pi_j sum_k w_k),
    w_k = p_k / q(x_t = i | x0 = k).

Reference: Austin et al. 2021 (D3PM), section 3; for the mask in continuous time Shi et al. 2024 (MD4), section 2.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import entr, ndtr, xlogy

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

UNIFORM, ABSORBING = "uniform", "absorbing"


@dataclasses.dataclass(frozen=True)
class CategoricalProcess:
    """Categorical process, an implementation of `base.Process`.

    Coefficients are `KeptCoefficients`, distributions (probabilities of the states [B,*D,S], None). Values are
    floats: level k is 2 k/(K - 1) - 1, the range of the model, and the mask has k = K. Raises ValueError for fewer than
    two levels, and for another noise.
    """

    gaussian: ClassVar[bool] = False
    draws_x0: ClassVar[bool] = True
    num_levels: int
    noise: str = UNIFORM
    """Noise that replaces the values: uniform over the levels, or absorbing, a mask."""

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise ValueError(
                f"process.name='categorical': needs data of at least two levels (got data.levels={self.num_levels}). "
                "Use process.name=gaussian"
            )
        if self.noise not in (UNIFORM, ABSORBING):
            raise ValueError(f"process.categorical.noise={self.noise!r} is unknown. Use one of {UNIFORM}, {ABSORBING}")

    @property
    def levels(self) -> int:
        """Number of levels of the data, K."""
        return self.num_levels

    @property
    def masks(self) -> bool:
        """True if the noise is a mask."""
        return self.noise == ABSORBING

    @property
    def states(self) -> int:
        """Number of states S: the levels, and the mask if there is one."""
        return self.num_levels + self.masks

    def indices(self, x: Array) -> Array:
        """Return the state int32 [B,*D] of each value [B,*D]."""
        return jnp.round((x + 1) * ((self.num_levels - 1) / 2)).astype(jnp.int32)

    def values(self, index: Array, dtype: Any) -> Array:
        """Return the value [B,*D] of each state int [B,*D]."""
        return index.astype(dtype) * (2 / (self.num_levels - 1)) - 1

    def one_hot(self, x: Array) -> Array:
        """Return 1 at the state of each value [B,*D], 0 elsewhere: [B,*D,S]."""
        return jax.nn.one_hot(self.indices(x), self.states, dtype=x.dtype)

    def known(self, log_probs: Array, x_t: Array) -> Array:
        """Return log probabilities of x0 [B,*D,K], with 0 for the values that x_t [B,*D] shows."""
        if not self.masks:
            return log_probs
        seen = self.one_hot(x_t)[..., : self.num_levels]
        return jnp.where(seen.sum(-1, keepdims=True) > 0, jnp.log(seen), log_probs)

    def mean(self, probabilities: Array) -> Array:
        """Return the mean value [B,*D] of probabilities of the levels [B,*D,K]."""
        grid = self.values(jnp.arange(self.num_levels), probabilities.dtype)
        return (probabilities * grid).sum(-1)

    def prior(self, schedule: Schedule, keys: Array, shape: tuple[int, ...]) -> Array:
        """Draw independent states [B, *shape] of the noise, with one key per example."""
        noise = normal(keys, shape)
        pi = jnp.broadcast_to(self._pi(noise.dtype), (*noise.shape, self.states))
        return self.draw((pi, None), noise)

    def prior_kl(self, schedule: Schedule, x0: Array) -> Array:
        """Return KL(q(x_1 | x0) || p(x_1)) in nats [B]."""
        end = level(schedule, jnp.ones((), x0.dtype))
        at_end = self._noised(2 * end.log_alpha, self.one_hot(x0))
        return self.kl((at_end, None), (jnp.broadcast_to(self._pi(x0.dtype), at_end.shape), None))

    def prior_entropy(self, schedule: Schedule, x0: Array) -> Array:
        """Return the entropy of independent states of the noise, in nats [B]."""
        return _entropy(jnp.broadcast_to(self._pi(x0.dtype), (*x0.shape, self.states)))

    def corrupt(self, level: Level, x0: Array, noise: Array) -> Array:
        """Return states of q(x_t | x0), from standard normal noise."""
        return self.draw((self._noised(2 * level.log_alpha, self.one_hot(x0)), None), noise)

    def coefficients(self, schedule: Schedule, times: Array) -> KeptCoefficients:
        """Return the coefficients [N] of a falling time grid [N+1], in the dtype of `times`."""
        return kept_coefficients(schedule, times)

    def posterior(self, coefficients: KeptCoefficients, x0: Array, x_t: Array) -> tuple[Array, None]:
        """Return q(x_s | x_t, x0), [B,*D,S].

        x0 may also be probabilities of the levels [B,*D,K]: the result is then the mixture of their posteriors. Levels
        from which x_t cannot come do not count.
        """
        seen = self.one_hot(x_t)
        shown = (seen * self._pi(seen.dtype)).sum(-1, keepdims=True)  # pi of the state that x_t shows

        def likelihood(log_kept: Array) -> Array:
            log_kept = expand(log_kept, seen)
            return jnp.exp(log_kept) * seen - jnp.expm1(log_kept) * shown

        if x0.ndim == x_t.ndim:
            belief = self.one_hot(x0)
        else:
            belief = jnp.pad(x0, [(0, 0)] * (x0.ndim - 1) + [(0, self.states - self.num_levels)])
        of_x0 = likelihood(2 * coefficients.at.log_alpha)
        weights = jnp.where(of_x0 > 0, belief / jnp.where(of_x0 > 0, of_x0, 1), 0)
        log_kept = expand(2 * coefficients.to.log_alpha, seen)
        noise = weights.sum(-1, keepdims=True) * self._pi(seen.dtype)
        found = likelihood(coefficients.log_kept) * (jnp.exp(log_kept) * weights - jnp.expm1(log_kept) * noise)
        return found / found.sum(-1, keepdims=True), None

    def kl(self, p: tuple[Array, None], q: tuple[Array, None]) -> Array:
        """Return KL(p || q) in nats [B], summed over the data dimensions.

        q is kept off 0 by the smallest number of its dtype.
        """
        nats = xlogy(p[0], p[0]) - xlogy(p[0], jnp.maximum(q[0], jnp.finfo(q[0].dtype).tiny))
        return nats.reshape(len(nats), -1).sum(1)

    def draw(self, distribution: tuple[Array, None], noise: Array) -> Array:
        """Return the state at the quantile of the noise, never one of probability 0.

        Where the noise is 0 this is the median state; NaN where the probabilities are.
        """
        below = jnp.cumsum(distribution[0], -1)[..., :-1]
        above = jnp.cumsum(distribution[0][..., ::-1], -1)[..., -2::-1]
        passed = (ndtr(-noise)[..., None] < above) | (below <= 0)  # ndtr may round to 1, but not to 0
        lost = jnp.isnan(distribution[0]).any(-1)
        return jnp.where(lost, jnp.nan, self.values(passed.sum(-1), noise.dtype))

    def entropies(self, coefficients: KeptCoefficients, x0: Array) -> Entropies:
        """Return the conditional entropies around a step, of the states that q makes of x0."""
        before = self._noised(2 * coefficients.to.log_alpha, self.one_hot(x0))
        kept = expand(coefficients.log_kept, before[..., None])
        every = jnp.exp(kept) * jnp.eye(self.states) - jnp.expm1(kept) * self._pi(x0.dtype)
        step = (before * entr(every).sum(-1)).reshape(len(x0), -1).sum(1)
        at = self._noised(2 * coefficients.at.log_alpha, self.one_hot(x0))
        return Entropies(_entropy(at), _entropy(before), step)

    def _pi(self, dtype: Any) -> Array:
        """Return the distribution of the noise over the states [S]."""
        if self.masks:
            return jnp.zeros(self.states, dtype).at[-1].set(1)
        return jnp.full(self.states, 1 / self.states, dtype)

    def _noised(self, log_kept: Array, probabilities: Array) -> Array:
        """Return the probabilities [B,*D,S] after values are kept with probability exp(log_kept), else replaced."""
        log_kept = expand(log_kept, probabilities)
        return jnp.exp(log_kept) * probabilities - jnp.expm1(log_kept) * self._pi(probabilities.dtype)


def _entropy(probabilities: Array) -> Array:
    """Return the entropy of independent states in nats [B]."""
    return entr(probabilities).reshape(len(probabilities), -1).sum(1)
