"""Denoisers: from the output of a network to a prediction of (x0, eps).

The output is a `targets.Target`, which with x_t gives x0 and eps.
"""

import zlib
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.objective.conditionings import Conditioning, InputScale
from diffusion_jax.objective.targets import OutputTransform, Target, solve_where_determined, solve_x0_eps
from diffusion_jax.process.base import Array, Level, ScheduleFromParams, expand


class Prediction(NamedTuple):
    """Prediction of a denoiser for x_t [B,*D]."""

    x0: Array
    """The clean example [B,*D]; for bits the mean of a bit, 2 P(+1) - 1."""
    eps: Any
    """The noise [B,*D]; None for processes without Gaussian noise."""
    head: Any
    """The raw second output [B,*D] of a network that also predicts a variance, which a `Reverse` interprets; None
    for other networks."""
    log_probs: Any = None
    """Log probabilities of the K levels of data of levels [B,*D,K], whose mean is x0; None for other processes."""


class Denoiser(Protocol):
    """Denoiser of a model: network and parameterisation, and in sampling also clipping and guidance."""

    def __call__(
        self, params: Any, x_t: Array, level: Level, /, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        """Return the prediction for x_t [B,*D] at levels [B].

        params: of the model, a dict; the network's are params["net"]. label: int [B], -1 for none; or None. keys: PRNG
        keys [B] for dropout and label dropout in training; None switches both off. Training on augmented examples adds
        an argument, the label of the augmentation [B,A].
        """


class NetworkApply(Protocol):
    """Forward pass of a network, as the `apply` of a linen module."""

    def __call__(
        self, variables: Any, x: Array, conditioning: Array, label: Array | None, keys: Array | None, /
    ) -> Array:
        """Return the output for x [B,*D], noisy examples after the `InputScale`.

        variables: {"params": of the network}. conditioning: float [B], of a `Conditioning`. label: int [B], -1 for
        none; or None. keys: PRNG keys [B] for dropout; None switches it off.
        """


class ClassLogProbs(Protocol):
    """Classifier of noisy examples."""

    def __call__(self, params: Any, x_t: Array, level: Level, keys: Array | None = None, /) -> Array:
        """Return log p(label | x_t) [B,classes]; keys [B] switch dropout on."""


def make_denoiser(
    apply: NetworkApply,
    schedule: ScheduleFromParams,
    target: Target,
    conditioning: Conditioning,
    with_head: bool = False,
    input_scale: InputScale | None = None,
    output_transform: OutputTransform | None = None,
    determined: bool = True,
) -> Denoiser:
    """Make the denoiser of a network and its parameterisation.

    with_head: the network also predicts a variance; its output has 2C channels, first the target, then the head.
    input_scale: None for 1. output_transform: of the output, before it is taken for the target; needs `with_head`.
    determined: False for a target that does not determine x0 at every level, see `solve_where_determined`.
    """
    solve = solve_x0_eps if determined else solve_where_determined

    def predict(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None, *augment: Array
    ) -> Prediction:
        scaled = x_t if input_scale is None else expand(input_scale(level), x_t) * x_t
        output = apply({"params": params["net"]}, scaled, conditioning(level), label, keys, *augment)
        output, head = jnp.split(output, 2, axis=-1) if with_head else (output, None)
        if output_transform is not None:
            output = output_transform(schedule(params), level, x_t, output, head)
        x0, eps = solve(target(schedule(params), level), level, x_t, output)
        return Prediction(x0, eps, head)

    return predict


def make_bit_denoiser(apply: NetworkApply, conditioning: Conditioning) -> Denoiser:
    """Make the denoiser of bits: outputs are logits, x0 = tanh(output / 2) is the mean of a bit."""

    def predict(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        output = apply({"params": params["net"]}, x_t, conditioning(level), label, keys)
        return Prediction(jnp.tanh(output / 2), None, None)

    return predict


def make_class_log_probs(
    apply: NetworkApply, conditioning: Conditioning, input_scale: InputScale | None = None
) -> ClassLogProbs:
    """Make the classifier log p(label | x_t) of a network whose outputs are logits [B,classes]."""

    def log_probs(params: Any, x_t: Array, level: Level, keys: Array | None = None) -> Array:
        scaled = x_t if input_scale is None else expand(input_scale(level), x_t) * x_t
        return jax.nn.log_softmax(apply({"params": params["net"]}, scaled, conditioning(level), None, keys))

    return log_probs


def drop_labels(predict: Denoiser, rate: float) -> Denoiser:
    """Wrap a denoiser with label dropout: a label becomes -1 with probability `rate`.

    Only in training, where keys are given. The dropout of the label of example i follows from keys[i] alone.
    Reference: Ho and Salimans 2022, algorithm 1.
    """
    stream = zlib.crc32(b"label dropout")  # keeps it apart from the dropout masks of layers, which use the same keys

    def dropping(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None, *augment: Array
    ) -> Prediction:
        if label is not None and keys is not None:
            dropped = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, stream), rate))(keys)
            label = jnp.where(dropped, -1, label)
        return predict(params, x_t, level, label, keys, *augment)

    return dropping if rate else predict


def clip_x0(predict: Denoiser, quantile: float = 0.0, keep_eps: bool = False) -> Denoiser:
    """Wrap a denoiser: clip x0 to [-1, 1], with eps = (x_t - alpha x0)/sigma.

    Args:
        predict: the denoiser.
        quantile: above 0, dynamic thresholding: x0 is clipped to [-s, s] and divided by s, where s is the larger of 1
            and this quantile of |x0| over the elements of an example.
        keep_eps: leave eps as predicted.

    Reference: the public code of Ho et al. 2020, which clips in sampling and in the evaluation of the bound;
    Saharia et al. 2022, section 2.3; keep_eps: the default of DDIM in diffusers.
    """

    def clipped(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        prediction = predict(params, x_t, level, label, keys)
        if quantile:
            size = jnp.quantile(jnp.abs(prediction.x0).reshape(len(x_t), -1), quantile, axis=1)
            size = expand(jnp.maximum(size, 1), x_t)
            x0 = jnp.clip(prediction.x0, -size, size) / size
        else:
            x0 = jnp.clip(prediction.x0, -1, 1)
        if prediction.eps is None or keep_eps:
            return prediction._replace(x0=x0)
        eps = (x_t - expand(level.alpha, x_t) * x0) * expand(jnp.exp(-level.log_sigma), x_t)
        return prediction._replace(x0=x0, eps=eps)

    return clipped
