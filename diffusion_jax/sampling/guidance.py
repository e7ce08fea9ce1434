"""Guidance: `predict -> predict`, so that every sampler takes it.

Two models, or one told and not told the class, give two predictions; guidance goes from the weaker one to the stronger
one and beyond,

    out = weak + w (strong - weak),        w = 1: the stronger one alone; w = 0: the weaker one alone.

The scale w acts where t lies in an interval; elsewhere it is 1. Scales of 1 and 0 at all t cost one call and change no
bit. Predictions are combined before x0 is clipped, in (x0, eps), which for every parameterisation is the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.objective.prediction import Denoiser, Prediction
from diffusion_jax.process.base import Array, Level, expand

Interval = tuple[float, float]
ALWAYS = (0.0, 1.0)
Pair = Callable[..., tuple[Prediction, Prediction]]
"""As `Denoiser`, but it returns (strong, weak)."""
LogProbs = Callable[..., Array]
"""`log_probs(params, x_t[B,*D], level[B]) -> [B,classes]`: log p(label | x_t) of a noise-aware classifier, in nats."""


def classifier_free(predict: Denoiser, scale: float, interval_t: Interval = ALWAYS, rescale: float = 0.0) -> Denoiser:
    """uncond + w (cond - uncond), of one network that was trained with labels and with labels dropped.

    One call with twice the batch: cond first, uncond (label -1) behind it. Source: Ho and Salimans 2022, eq. 6, whose w
    is ours less 1; the interval: Kynkäänniemi et al. 2024.
    """
    if scale == 0 and interval_t == ALWAYS:

        def unconditional(
            params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
        ) -> Prediction:
            return predict(params, x_t, level, None, keys)

        return unconditional

    def pair(params: Any, x_t: Array, level: Level, label: Array | None, keys: Array | None) -> Any:
        told = jnp.full(len(x_t), -1) if label is None else label
        twice = jax.tree.map(lambda a: jnp.concatenate([a, a]), (x_t, level, keys))
        x_t, level, keys = twice
        both = predict(params, x_t, level, jnp.concatenate([told, jnp.full_like(told, -1)]), keys)
        size = len(told)
        return jax.tree.map(lambda a: a[:size], both), jax.tree.map(lambda a: a[size:], both)

    return predict if scale == 1 else extrapolate(pair, scale, interval_t, rescale)


def autoguidance(
    predict: Denoiser, worse: Denoiser, scale: float, interval_t: Interval = ALWAYS, rescale: float = 0.0
) -> Denoiser:
    """worse + w (predict - worse), two calls: `worse` is a smaller or less trained model, of params["guide"].

    Source: Karras et al. 2024 ("Guiding a diffusion model with a bad version of itself"), eq. 3 with its w.
    """

    def weak(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        return worse(params["guide"], x_t, level, label, keys)

    if scale == 0 and interval_t == ALWAYS:
        return weak
    return predict if scale == 1 else extrapolate(lambda *a: (predict(*a), weak(*a)), scale, interval_t, rescale)


def extrapolate(pair: Pair, scale: float, interval_t: Interval = ALWAYS, rescale: float = 0.0) -> Denoiser:
    """strong + (w - 1) (strong - weak), which is weak + w (strong - weak) and strong to the bit where w = 1.

    rescale: share in which x0 gets back the standard deviation that x0 of `strong` has over the elements of an example.
    Source: Lin et al. 2023, section 3.4, here on x0.
    """

    def guided(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        strong, weak = pair(params, x_t, level, label, keys)
        more = expand(scale_at(level, scale, interval_t) - 1, x_t)
        x0, eps = (a + more * (a - b) for a, b in ((strong.x0, weak.x0), (strong.eps, weak.eps)))
        if rescale:
            axes = tuple(range(1, x_t.ndim))
            wanted, found = (jnp.std(x, axes, keepdims=True) for x in (strong.x0, x0))
            x0 *= jnp.where(more == 0, 1, 1 - rescale + rescale * wanted / found)
            eps = (x_t - expand(level.alpha, x_t) * x0) * expand(jnp.exp(-level.log_sigma), x_t)
        return Prediction(x0, eps, strong.head)

    return guided


def classifier(predict: Denoiser, log_probs: LogProbs, scale: float, interval_t: Interval = ALWAYS) -> Denoiser:
    """The score plus w grad log p(label | x_t) of a classifier of noisy examples, of params["classifier"].

    eps - w sigma grad, hence x0 + w sigma²/alpha grad. w = 1 is the conditional law where the classifier is exact and
    `predict` was not told the label; the interval is that in which it acts at all. One call, and the classifier's
    forward and backward pass. Source: Dhariwal and Nichol 2021, algorithm 2.
    """

    def guided(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        found = predict(params, x_t, level, label, keys)
        if label is None:
            return found

        def log_prob(x: Array) -> Array:
            return jnp.take_along_axis(log_probs(params["classifier"], x, level), label[:, None], axis=1).sum()

        slope = jax.grad(log_prob)(x_t)
        slope *= expand(jnp.where(inside(level, interval_t), scale, 0.0), x_t).astype(x_t.dtype)
        to_x0 = jnp.where(jnp.isneginf(level.log_alpha), 0, jnp.exp(2 * level.log_sigma - level.log_alpha))
        x0 = found.x0 + expand(to_x0, x_t) * slope
        return Prediction(x0, found.eps - expand(level.sigma, x_t) * slope, found.head)

    return predict if scale == 0 else guided


def scale_at(level: Level, scale: float, interval_t: Interval) -> Array:
    """w at a level [B]: the scale in the interval of t, 1 elsewhere."""
    return jnp.where(inside(level, interval_t), jnp.asarray(scale, level.t.dtype), 1)


def inside(level: Level, interval_t: Interval) -> Array:
    """Whether a level [B] lies in the interval, ends included."""
    low, high = interval_t
    return (low <= level.t) & (level.t <= high)
