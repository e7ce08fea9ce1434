"""Guidance: a wrapper of a denoiser, for every sampler.

Two models, or one model with and without the class label, give two predictions; guidance extrapolates from the weaker
to the stronger one,

    out = weak + w (strong - weak),        w = 1: the stronger alone; w = 0: the weaker alone.

The scale w acts where t lies in an interval; elsewhere it is 1. Scales of 1 and 0 at all t cost one network call and
give the same bits as the one model. Predictions are combined before x0 is clipped, in (x0, eps), which gives the same
for every parameterisation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.objective.prediction import Denoiser, Prediction
from diffusion_jax.process.base import Array, Level, expand

Interval = tuple[float, float]
ALWAYS = (0.0, 1.0)


Pair = Callable[[Any, Array, Level, Array | None, Array | None], tuple[Prediction, Prediction]]
"""Two denoisers: (params, x_t, level, label, keys) -> predictions (strong, weak); arguments as of `Denoiser`."""
LogProbs = Callable[[Any, Array, Level], Array]
"""Classifier of noisy examples: (params, x_t [B,*D], level [B]) -> log p(label | x_t) in nats [B,classes]."""


@declare(takes_label=True)
def classifier_free(predict: Denoiser, scale: float, interval_t: Interval = ALWAYS, rescale: float = 0.0) -> Denoiser:
    """Classifier-free guidance uncond + w (cond - uncond), of a network trained with label dropout.

    One network call with twice the batch: first cond, then uncond (label -1). Reference: Ho and Salimans 2022, eq. 6,
    whose w is ours less 1; the interval: Kynkäänniemi et al. 2024.
    """
    if scale == 0 and interval_t == ALWAYS:

        def unconditional(
            params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
        ) -> Prediction:
            return predict(params, x_t, level, None, keys)

        return unconditional

    def pair(params: Any, x_t: Array, level: Level, label: Array | None, keys: Array | None) -> Any:
        labels = jnp.full(len(x_t), -1) if label is None else label
        twice = jax.tree.map(lambda a: jnp.concatenate([a, a]), (x_t, level, keys))
        x_t, level, keys = twice
        both = predict(params, x_t, level, jnp.concatenate([labels, jnp.full_like(labels, -1)]), keys)
        size = len(labels)
        return jax.tree.map(lambda a: a[:size], both), jax.tree.map(lambda a: a[size:], both)

    return predict if scale == 1 else extrapolate(pair, scale, interval_t, rescale)


def autoguidance(
    predict: Denoiser, worse: Denoiser, scale: float, interval_t: Interval = ALWAYS, rescale: float = 0.0
) -> Denoiser:
    """Autoguidance worse + w (predict - worse), with a smaller or less trained model of params["guide"].

    Two network calls.
    Reference: Karras et al. 2024 ("Guiding a diffusion model with a bad version of itself"), eq. 3 with its w.
    """

    def weak(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        return worse(params["guide"], x_t, level, label, keys)

    if scale == 0 and interval_t == ALWAYS:
        return weak
    return predict if scale == 1 else extrapolate(lambda *a: (predict(*a), weak(*a)), scale, interval_t, rescale)


def extrapolate(pair: Pair, scale: float, interval_t: Interval = ALWAYS, rescale: float = 0.0) -> Denoiser:
    """Return the denoiser strong + (w - 1) (strong - weak), which is strong to the bit where w = 1.

    rescale: share in which x0 keeps the standard deviation that x0 of `strong` has over the elements of an example.
    Reference: Lin et al. 2023, section 3.4, here on x0.
    """

    def guided(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        strong, weak = pair(params, x_t, level, label, keys)
        more = expand(scale_at(level, scale, interval_t) - 1, x_t)
        x0, eps = (a + more * (a - b) for a, b in ((strong.x0, weak.x0), (strong.eps, weak.eps)))
        if rescale:
            axes = tuple(range(1, x_t.ndim))
            wanted, present = (jnp.std(x, axes, keepdims=True) for x in (strong.x0, x0))
            ratio = jnp.where(present == 0, 1, wanted / jnp.where(present == 0, 1, present))
            x0 *= jnp.where(more == 0, 1, 1 - rescale + rescale * ratio)
            of_x0 = (x_t - expand(level.alpha, x_t) * x0) * expand(jnp.exp(-level.log_sigma), x_t)
            eps = jnp.where(more == 0, strong.eps, of_x0)
        return Prediction(x0, eps, strong.head)

    return guided


def classifier(predict: Denoiser, log_probs: LogProbs, scale: float, interval_t: Interval = ALWAYS) -> Denoiser:
    """Classifier guidance: the score plus w grad log p(label | x_t), of params["classifier"].

    eps - w sigma grad, hence x0 + w sigma²/alpha grad. w = 1 gives the conditional distribution if the classifier is
    exact and `predict` is not conditioned on the label. Outside of the interval there is no guidance. One network call,
    and the classifier's forward and backward pass. Reference: Dhariwal and Nichol 2021, algorithm 2.
    """

    def guided(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        prediction = predict(params, x_t, level, label, keys)
        if label is None:
            return prediction

        def log_prob(x: Array) -> Array:
            known = jnp.maximum(label, 0)[:, None]  # -1: no label, no guidance
            return jnp.take_along_axis(log_probs(params["classifier"], x, level), known, axis=1).sum()

        slope = jax.grad(log_prob)(x_t)
        slope *= expand(jnp.where(inside(level, interval_t) & (label >= 0), scale, 0.0), x_t).astype(x_t.dtype)
        to_x0 = jnp.where(jnp.isneginf(level.log_alpha), 0, jnp.exp(2 * level.log_sigma - level.log_alpha))
        x0 = prediction.x0 + expand(to_x0, x_t) * slope
        return Prediction(x0, prediction.eps - expand(level.sigma, x_t) * slope, prediction.head)

    return predict if scale == 0 else guided


def scale_at(level: Level, scale: float, interval_t: Interval) -> Array:
    """Return w [B] at levels [B]: the scale in the interval of t, 1 elsewhere."""
    return jnp.where(inside(level, interval_t), jnp.asarray(scale, level.t.dtype), 1)


def inside(level: Level, interval_t: Interval) -> Array:
    """Return bool [B]: whether levels [B] lie in the interval of t, ends included."""
    low, high = interval_t
    return (low <= level.t) & (level.t <= high)
