"""Denoisers: from the output of a network to a prediction of (x0, eps).

A network may be trained to output any combination target = a x0 + b eps of the clean example and the noise. Together
with x_t = alpha x0 + sigma eps this gives two linear equations,

    alpha x0 + sigma eps = x_t,
        a x0 +     b eps = output,

so that a parameterisation is just its coefficients (a, b). In float32 the system is ill-conditioned near both ends by
nature (x0 from eps where alpha is tiny).
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.process.base import Array, Level, Schedule, ScheduleFromParams, expand, level
from diffusion_jax.process.gaussian import GaussianCoefficients, step_coefficients


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


class Target(Protocol):
    """Parameterisation: the coefficients (a, b) of the network's target a x0 + b eps."""

    def __call__(self, schedule: Schedule, level: Level, /) -> tuple[Array, Array]:
        """Return (a, b), each [B], for the levels [B] of a schedule."""


Conditioning = Callable[[Level], Array]
"""Levels [B] -> the number [B] that the network is conditioned on."""
InputScale = Callable[[Level], Array]
"""Levels [B] -> the factor [B] on x_t at the input of the network."""


class OutputTransform(Protocol):
    """Transform of the raw output of a network into its target."""

    def __call__(self, schedule: Schedule, level: Level, x_t: Array, output: Array, head: Any, /) -> Array:
        """Return the target [B,*D] from the two outputs [B,*D] of the network for x_t [B,*D] at levels [B]."""


class ClassLogProbs(Protocol):
    """Classifier of noisy examples."""

    def __call__(self, params: Any, x_t: Array, level: Level, keys: Array | None = None, /) -> Array:
        """Return log p(label | x_t) [B,classes]; keys [B] switch dropout on."""


@declare(gaussian=True)
def eps() -> Target:
    """Target eps, the noise: (0, 1). Reference: Ho et al. 2020, eq. 11."""
    return lambda schedule, level: (jnp.zeros_like(level.t), jnp.ones_like(level.t))


def x0() -> Target:
    """Target x0, the clean example: (1, 0)."""
    return lambda schedule, level: (jnp.ones_like(level.t), jnp.zeros_like(level.t))


@declare(gaussian=True)
def v() -> Target:
    """Target v = alpha eps - sigma x0: (-sigma, alpha). Reference: Salimans and Ho 2022, appendix D."""
    return lambda schedule, level: (-level.sigma, level.alpha)


@declare(gaussian=True)
def velocity() -> Target:
    """Target velocity eps - x0 of the straight path: (-1, 1). It determines x0 at every level of every schedule.

    Reference: Liu et al. 2023 (rectified flow), eq. 1; Lipman et al. 2023 (flow matching).
    """
    return lambda schedule, level: (-jnp.ones_like(level.t), jnp.ones_like(level.t))


@declare(gaussian=True)
def score() -> Target:
    """Target score of q(x_t | x0), -eps/sigma: (0, -1/sigma). Reference: Song et al. 2021, eq. 7."""
    return lambda schedule, level: (jnp.zeros_like(level.t), -jnp.exp(-level.log_sigma))


@declare(gaussian=True, chain=True, clips=False)
def posterior_mean(num_steps: int) -> Target:
    """Target mean of q(x_s | x_t, x0), one step of the chain earlier, s = t - 1/num_steps.

    With that mean = c0 x0 + c1 x_t the coefficients are (c0 + c1 alpha, c1 sigma). Reference: Ho et al. 2020, eq. 7.
    """

    def target(schedule: Schedule, at: Level) -> tuple[Array, Array]:
        step = previous_step_coefficients(schedule, at, num_steps)
        return step.x0_scale + step.x_t_scale * at.alpha, step.x_t_scale * at.sigma

    return target


@declare(gaussian=True)
def edm(sigma_data: float = 0.5) -> Target:
    """Target of EDM's preconditioning: x0 = c_skip x_t/alpha + c_out target.

    The target has variance 1. With d = sigma_data, the standard deviation of the data, and r = sqrt(sigma² + alpha² d²)
    the coefficients are (sigma/(d r), -alpha d/r). d = 1 in a variance-preserving process gives -v.
    Reference: Karras et al. 2022, table 1.
    """

    def target(schedule: Schedule, level: Level) -> tuple[Array, Array]:
        r = jnp.hypot(level.sigma, level.alpha * sigma_data)
        return level.sigma / (sigma_data * r), -level.alpha * sigma_data / r

    return target


@declare(gaussian=True, chain=True, preserves_variance=True)
def dpm2015(num_steps: int) -> Target:
    """Target z of the reverse mean sqrt(1 - beta) x_t + sqrt(beta) z of a step.

    For variance-preserving chains. The coefficients are sqrt(beta) alpha_s (1, -alpha/sigma).
    Reference: the public code of Sohl-Dickstein et al. 2015.
    """

    def target(schedule: Schedule, at: Level) -> tuple[Array, Array]:
        step = previous_step_coefficients(schedule, at, num_steps)
        a = jnp.exp(0.5 * step.log_var_large + step.to.log_alpha)
        return a, -a * jnp.exp(0.5 * at.logsnr)

    return target


def dpm2015_paper_output(num_steps: int) -> OutputTransform:
    """Transform z of the mean (x_t - z)(1 - Sigma) + z into z of `dpm2015`.

    Sigma = sigmoid(head + logit beta). The paper's own mean: the forward step, a pull towards 0, becomes a pull towards
    z.
    Reference: Sohl-Dickstein et al. 2015, appendix D.2.1.
    """

    def transform(schedule: Schedule, at: Level, x_t: Array, output: Array, head: Any) -> Array:
        step = previous_step_coefficients(schedule, at, num_steps)
        log_beta = expand(step.log_var_large, x_t)
        rate = jnp.exp(log_sigmoid_rate(log_beta, head))
        lost = -expand(jnp.expm1(at.log_alpha - step.to.log_alpha), x_t)  # 1 - sqrt(1 - beta)
        return (x_t * (lost - rate) + output * rate) * jnp.exp(-0.5 * log_beta)

    return transform


@declare(gaussian=True, chain=True, preserves_variance=True, family="dpm2015_paper", output=dpm2015_paper_output)
def dpm2015_paper(num_steps: int) -> Target:
    """Target `dpm2015` after the transform `dpm2015_paper_output`, with the variance of the same name."""
    return dpm2015(num_steps)


TARGETS: dict[str, Callable[..., Target]] = {
    "eps": eps,
    "x0": x0,
    "v": v,
    "velocity": velocity,
    "score": score,
    "edm": edm,
    "posterior_mean": posterior_mean,
    "dpm2015_code": dpm2015,
    "dpm2015_paper": dpm2015_paper,
}
"""Targets by name."""


def previous_step_coefficients(schedule: Schedule, at: Level, num_steps: int) -> GaussianCoefficients:
    """Return the step coefficients from levels of a chain to the previous levels."""
    s = jnp.maximum(jnp.round(at.t * num_steps) - 1, 0) / num_steps
    return step_coefficients(at, level(schedule, s))


def log_sigmoid_rate(log_beta: Array, head: Array) -> Array:
    """Return log sigmoid(head + logit beta): the log of a variance around beta and below 1."""
    return jax.nn.log_sigmoid(head + log_beta - jnp.log(-jnp.expm1(log_beta)))


def combine_x0_eps(target: tuple[Array, Array], x0: Array, eps: Array) -> Array:
    """Return the target a x0 + b eps [B,*D] of a pair (x0, eps), for coefficients (a, b), each [B]."""
    a, b = target
    return expand(a, x0) * x0 + expand(b, x0) * eps


def solve_x0_eps(target: tuple[Array, Array], level: Level, x_t: Array, output: Array) -> tuple[Array, Array]:
    """Return the pair (x0, eps) with alpha x0 + sigma eps = x_t and a x0 + b eps = output.

    target: the coefficients (a, b), each [B]. output: of the network, its estimate of the target, [B,*D].
    """
    a, b = target
    alpha, sigma = level.alpha, level.sigma
    scale = 1 / (alpha * b - sigma * a)
    x0 = expand(b * scale, x_t) * x_t - expand(sigma * scale, x_t) * output
    eps = expand(alpha * scale, x_t) * output - expand(a * scale, x_t) * x_t
    return x0, eps


def solve_where_determined(target: tuple[Array, Array], level: Level, x_t: Array, output: Array) -> tuple[Array, Array]:
    """Return the pair (x0, eps) as `solve_x0_eps`, but where it has no solution x0 = 0 and eps = output/b.

    There alpha = 0 and the target holds no x0, so that nothing determines x0: no sampler may start there.
    """
    a, b = target
    lost = level.alpha * b - level.sigma * a == 0
    x0, eps = solve_x0_eps(target, level._replace(log_alpha=jnp.where(lost, 0, level.log_alpha)), x_t, output)
    return jnp.where(expand(lost, x_t), 0, x0), eps


def no_scaling() -> None:
    """Leave the input of the network as it is."""


def unit_variance(sigma_data: float = 0.5) -> InputScale:
    """Input scale 1/sqrt(sigma² + alpha² sigma_data²), after which x_t has unit variance.

    Reference: c_in of Karras et al. 2022, table 1.
    """
    return lambda level: 1 / jnp.hypot(level.sigma, level.alpha * sigma_data)


@declare(step_index=True)
def step_conditioning(num_steps: int) -> Conditioning:
    """Condition on the step index k - 1 in 0..T-1, for t = k/num_steps.

    Between the steps it is a fraction. Reference: the public code of Ho et al. 2020.
    """

    def conditioning(level: Level) -> Array:
        k = level.t * num_steps
        whole = jnp.round(k)
        return jnp.where(jnp.abs(k - whole) < 1e-3, whole, k) - 1  # k/T * T is one rounding off for some k

    return conditioning


def time_conditioning(scale: float = 999.0) -> Conditioning:
    """Condition on scale · t. Reference: Song et al. 2021, whose networks of the VP SDE take 999 t."""
    return lambda level: scale * level.t


def slow_time_conditioning() -> Conditioning:
    """Condition on 8 t, for losses that differentiate the network in t.

    The sinusoids of 999 t have slopes that hide the slopes of all other parts.
    """
    return time_conditioning(8.0)


def logsnr_conditioning() -> Conditioning:
    """Condition on log(alpha²/sigma²). Reference: Kingma et al. 2021."""
    return lambda level: level.logsnr


def log_sigma_conditioning() -> Conditioning:
    """Condition on ln(sigma/alpha)/4. Reference: c_noise of Karras et al. 2022, table 1."""
    return lambda level: -level.logsnr / 8


CONDITIONINGS: dict[str, Callable[..., Conditioning]] = {
    "step": step_conditioning,
    "time": time_conditioning,
    "slow_time": slow_time_conditioning,
    "logsnr": logsnr_conditioning,
    "log_sigma": log_sigma_conditioning,
}
"""Conditioning functions by name."""

INPUT_SCALINGS: dict[str, Callable[..., InputScale | None]] = {"none": no_scaling, "unit_variance": unit_variance}
"""Input scales by name."""


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
