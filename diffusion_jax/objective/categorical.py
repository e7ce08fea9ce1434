"""Categorical process: its network, its denoiser, and the bound of masked diffusion.

The bound is in continuous time. The network sees each value as its state, one-hot, and returns logits of the K levels
of x0.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.objective.bound import bits_per_dim
from diffusion_jax.objective.conditionings import Conditioning
from diffusion_jax.objective.losses import NoisyBatch, Term
from diffusion_jax.objective.prediction import Denoiser, NetworkApply, Prediction
from diffusion_jax.process.base import Array, Level, ScheduleFromParams
from diffusion_jax.process.base import level as level_of
from diffusion_jax.process.categorical import CategoricalProcess


@dataclasses.dataclass(frozen=True)
class StatesNetwork:
    """Network of states, made of any network.

    Its input has the channels [C S] of the one-hot states for the channels [C] of x.
    """

    network: Any
    process: CategoricalProcess

    def init(self, key: Array, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Any:
        """Return fresh parameters {"params": …}."""
        return self.network.init(key, self._inputs(x), time, label, keys)

    def apply(
        self, variables: Any, x: Array, time: Array, label: Array | None = None, keys: Array | None = None
    ) -> Array:
        """Return logits of the levels, in channels [C K], for x [B,*D]."""
        output: Array = self.network.apply(variables, self._inputs(x), time, label, keys)
        return output

    def _inputs(self, x: Array) -> Array:
        return self.process.one_hot(x).reshape(*x.shape[:-1], -1)


def make_categorical_denoiser(apply: NetworkApply, process: CategoricalProcess, conditioning: Conditioning) -> Denoiser:
    """Make the denoiser of levels: x0 is their mean, `log_probs` [B,*D,K] the log softmax of the logits.

    apply: of a `StatesNetwork`. Where x_t shows x0, since it is not masked, its probability is 1.
    """

    def predict(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        output = apply({"params": params["net"]}, x_t, conditioning(level), label, keys)
        logits = output.reshape(*x_t.shape, process.num_levels)
        log_probs = process.known(jax.nn.log_softmax(logits), x_t)
        return Prediction(process.mean(jnp.exp(log_probs)), None, None, log_probs)

    return predict


def masked_bound(process: CategoricalProcess, schedule: ScheduleFromParams) -> Term:
    """Variational bound of masked diffusion in continuous time, in bits/dim.

    -gamma'(t)/(1 - gamma(t)) · sum over the masked values of -log p(x0), with gamma = alpha²; its mean over t in [0, 1]
    is the bound. Reference: Shi et al. 2024 (MD4), section 3.
    """

    def term(params: Any, noisy: NoisyBatch) -> Array:
        t = jnp.minimum(noisy.level.t, 1 - jnp.finfo(noisy.level.t.dtype).eps)  # gamma may have no logarithm at 1
        path = schedule(params)
        log_kept, rate = jax.jvp(lambda t: 2 * level_of(path, t).log_alpha, (t,), (jnp.ones_like(t),))
        seen = process.one_hot(noisy.x0)[..., : process.num_levels] > 0
        nats = -jnp.where(seen, noisy.prediction.log_probs, 0).reshape(len(t), -1).sum(1)
        weight = rate * jnp.exp(log_kept) / jnp.expm1(log_kept)
        return bits_per_dim(jnp.where(nats > 0, weight, 0) * nats, noisy.x0.shape[1:])

    return term
