"""From the output of a network to a Prediction of (x0, eps), for every parameterisation by one 2x2 solve.

A network may be trained to output any combination target = a x0 + b eps of the clean example and the noise. Together
with x_t = alpha x0 + sigma eps that is two linear equations in two unknowns, so the parameterisation is just the row
(a, b). In float32 the system is ill-conditioned near both ends by nature (x0 from eps where alpha is tiny).
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.process.base import Array, Level, Schedule, expand, level
from diffusion_jax.process.gaussian import GaussianCoefficients, step_coefficients


class Prediction(NamedTuple):
    """What the model believes of x_t."""

    x0: Array
    """The clean example [B,*D]."""
    eps: Any
    """The noise [B,*D]; None for processes that have none."""
    head: Any
    """The raw second output [B,*D] of a network that also predicts a variance; `reverse` knows its meaning."""


Target = Callable[[Schedule, Level], tuple[Array, Array]]
"""`target(schedule, level[B]) -> (a[B], b[B])`, the row of a parameterisation."""
Predict = Callable[..., Prediction]
"""`predict(params, x_t[B,*D], level[B], label[B] or None, keys[B] or None) -> Prediction`; keys switch dropout on."""


def eps() -> Target:
    """The noise, (0, 1). Source: Ho et al. 2020, eq. 11."""
    return lambda schedule, level: (jnp.zeros_like(level.t), jnp.ones_like(level.t))


def x0() -> Target:
    """The clean example, (1, 0)."""
    return lambda schedule, level: (jnp.ones_like(level.t), jnp.zeros_like(level.t))


def v() -> Target:
    """v = alpha eps - sigma x0, (-sigma, alpha). Source: Salimans and Ho 2022, appendix D."""
    return lambda schedule, level: (-level.sigma, level.alpha)


def score() -> Target:
    """The score of q(x_t | x0), -eps/sigma: (0, -1/sigma). Source: Song et al. 2021, eq. 7."""
    return lambda schedule, level: (jnp.zeros_like(level.t), -jnp.exp(-level.log_sigma))


def posterior_mean(num_steps: int) -> Target:
    """The mean of q(x_s | x_t, x0) one step of the chain earlier, s = t - 1/num_steps. Source: Ho et al. 2020, eq. 7.

    With that mean = c0 x0 + c1 x_t the row is (c0 + c1 alpha, c1 sigma).
    """

    def target(schedule: Schedule, at: Level) -> tuple[Array, Array]:
        row = step_to_previous(schedule, at, num_steps)
        return row.x0_scale + row.x_t_scale * at.alpha, row.x_t_scale * at.sigma

    return target


def edm(sigma_data: float = 0.5) -> Target:
    """What is left of x0 without c_skip x_t/alpha, scaled to variance 1: x0 = c_skip x_t/alpha + c_out target.

    With d = sigma_data, the standard deviation of the data, and r = sqrt(sigma² + alpha² d²) the row is
    (sigma/(d r), -alpha d/r). d = 1 in a variance-preserving process gives -v. Source: Karras et al. 2022, table 1.
    """

    def target(schedule: Schedule, level: Level) -> tuple[Array, Array]:
        r = jnp.hypot(level.sigma, level.alpha * sigma_data)
        return level.sigma / (sigma_data * r), -level.alpha * sigma_data / r

    return target


def dpm2015(num_steps: int) -> Target:
    """z of the mean sqrt(1 - beta) x_t + sqrt(beta) z of a step of the chain: sqrt(beta) alpha_s (1, -alpha/sigma).

    For variance-preserving chains. Source: the public code of Sohl-Dickstein et al. 2015.
    """

    def target(schedule: Schedule, at: Level) -> tuple[Array, Array]:
        row = step_to_previous(schedule, at, num_steps)
        a = jnp.exp(0.5 * row.log_var_large + row.to.log_alpha)
        return a, -a * jnp.exp(0.5 * at.logsnr)

    return target


Shape = Callable[[Schedule, Level, Array, Array, Any], Array]
"""`shape(schedule, level[B], x_t, output, head) -> output`: an output that the head and x_t make a target."""


def attracted(num_steps: int) -> Shape:
    """From z of the mean (x_t - z)(1 - Sigma) + z to z of `dpm2015`, Sigma = sigmoid(head + logit beta).

    The paper's own mean: the forward step, which pulls towards 0, turned into a pull towards z. Source: Sohl-Dickstein
    et al. 2015, appendix D.2.1.
    """

    def shape(schedule: Schedule, at: Level, x_t: Array, output: Array, head: Array) -> Array:
        row = step_to_previous(schedule, at, num_steps)
        log_beta = expand(row.log_var_large, x_t)
        rate = jnp.exp(log_rate(log_beta, head))
        lost = -expand(jnp.expm1(at.log_alpha - row.to.log_alpha), x_t)  # 1 - sqrt(1 - beta)
        return (x_t * (lost - rate) + output * rate) * jnp.exp(-0.5 * log_beta)

    return shape


def step_to_previous(schedule: Schedule, at: Level, num_steps: int) -> GaussianCoefficients:
    """The row of the step from a level of the chain to the one before it."""
    s = jnp.maximum(jnp.round(at.t * num_steps) - 1, 0) / num_steps
    return step_coefficients(at, level(schedule, s))


def log_rate(log_beta: Array, head: Array) -> Array:
    """log sigmoid(head + logit beta): a variance around the forward one, below 1."""
    return jax.nn.log_sigmoid(head + log_beta - jnp.log(-jnp.expm1(log_beta)))


TARGETS: dict[str, Callable[..., Target]] = {"eps": eps, "x0": x0, "v": v, "score": score, "edm": edm}
"""The parameterisations that need no chain; `posterior_mean` needs its length."""


def combine(row: tuple[Array, Array], x0: Array, eps: Array) -> Array:
    """The target a x0 + b eps of a pair (x0, eps)."""
    a, b = row
    return expand(a, x0) * x0 + expand(b, x0) * eps


def solve(row: tuple[Array, Array], level: Level, x_t: Array, output: Array) -> tuple[Array, Array]:
    """The pair (x0, eps) with alpha x0 + sigma eps = x_t and a x0 + b eps = output."""
    a, b = row
    alpha, sigma = level.alpha, level.sigma
    scale = 1 / (alpha * b - sigma * a)
    x0 = expand(b * scale, x_t) * x_t - expand(sigma * scale, x_t) * output
    eps = expand(alpha * scale, x_t) * output - expand(a * scale, x_t) * x_t
    return x0, eps


InputScale = Callable[[Level], Array]
"""What x_t is multiplied by before the network sees it: `input_scale(level[B]) -> [B]`."""


def unit_variance(sigma_data: float = 0.5) -> InputScale:
    """1/sqrt(sigma² + alpha² sigma_data²): c_in of Karras et al. 2022, table 1."""
    return lambda level: 1 / jnp.hypot(level.sigma, level.alpha * sigma_data)


Telling = Callable[[Level], Array]
"""What the network is told about the level: `telling(level[B]) -> [B]`."""


def tell_step(num_steps: int) -> Telling:
    """k - 1 for t = k/num_steps: the integer 0..T-1 that Ho's network is told; fractions between the steps."""

    def tell(level: Level) -> Array:
        k = level.t * num_steps
        whole = jnp.round(k)
        return jnp.where(jnp.abs(k - whole) < 1e-3, whole, k) - 1  # k/T * T is one rounding off for some k

    return tell


def tell_time(scale: float = 999.0) -> Telling:
    """scale · t. Source: Song et al. 2021, whose networks of the VP SDE are told 999 t."""
    return lambda level: scale * level.t


def tell_logsnr() -> Telling:
    """log alpha²/sigma². Source: Kingma et al. 2021."""
    return lambda level: level.logsnr


def tell_log_sigma() -> Telling:
    """ln(sigma/alpha)/4. Source: Karras et al. 2022, table 1 (c_noise)."""
    return lambda level: -level.logsnr / 8


def predictor(
    apply: Callable[..., Array],
    schedule: Callable[[Any], Schedule],
    target: Target,
    tell: Telling,
    with_head: bool = False,
    input_scale: InputScale | None = None,
    shape: Shape | None = None,
) -> Predict:
    """Close a network over its parameterisation: `predict(params, x_t, level, label, keys) -> Prediction`.

    apply: `apply({"params": p}, x_t, told[B], label, keys) -> output`, with 2C channels if `with_head`: the target and
    the head, in that order. schedule: `params -> Schedule`. params is a dict; the network's own are `params["net"]`.
    input_scale: None leaves x_t as it is. shape: what else it takes to make the output a target.
    """

    def predict(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        seen = x_t if input_scale is None else expand(input_scale(level), x_t) * x_t
        output = apply({"params": params["net"]}, seen, tell(level), label, keys)
        output, head = jnp.split(output, 2, axis=-1) if with_head else (output, None)
        if shape is not None:
            output = shape(schedule(params), level, x_t, output, head)
        x0, eps = solve(target(schedule(params), level), level, x_t, output)
        return Prediction(x0, eps, head)

    return predict


def drop_labels(predict: Predict, rate: float) -> Predict:
    """`predict` that in training (keys given) takes each label away, as -1, with probability `rate`.

    Whether it is taken from example i follows from keys[i] alone. Source: Ho and Salimans 2022, algorithm 1.
    """
    stream = zlib.crc32(b"label dropout")  # sets it apart from the dropout masks of layers, which are named likewise

    def dropping(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        if label is not None and keys is not None:
            dropped = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, stream), rate))(keys)
            label = jnp.where(dropped, -1, label)
        return predict(params, x_t, level, label, keys)

    return dropping if rate else predict


def classifier(
    apply: Callable[..., Array], tell: Telling, input_scale: InputScale | None = None
) -> Callable[..., Array]:
    """`log_probs(params, x_t, level, keys=None) -> [B,classes]`, log p(label | x_t), of a network told the level.

    apply: as for `predictor`, with logits [B,classes] for output; input_scale likewise.
    """

    def log_probs(params: Any, x_t: Array, level: Level, keys: Array | None = None) -> Array:
        seen = x_t if input_scale is None else expand(input_scale(level), x_t) * x_t
        return jax.nn.log_softmax(apply({"params": params["net"]}, seen, tell(level), None, keys))

    return log_probs


def bit_predictor(apply: Callable[..., Array], tell: Telling) -> Predict:
    """Close a network over its reading as logits of bits: x0 = tanh(output / 2), the mean of a bit of -1 or +1."""

    def predict(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        return Prediction(jnp.tanh(apply({"params": params["net"]}, x_t, tell(level), label, keys) / 2), None, None)

    return predict


def clip_x0(predict: Predict, low: float = -1.0, high: float = 1.0) -> Predict:
    """`predict` with x0 clipped to the range of the data, and eps made to agree: eps = (x_t - alpha x0)/sigma.

    Source: the public code of Ho et al. 2020, which clips in sampling and in the evaluation of the bound.
    """

    def clipped(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        prediction = predict(params, x_t, level, label, keys)
        x0 = jnp.clip(prediction.x0, low, high)
        if prediction.eps is None:
            return prediction._replace(x0=x0)
        eps = (x_t - expand(level.alpha, x_t) * x0) * expand(jnp.exp(-level.log_sigma), x_t)
        return prediction._replace(x0=x0, eps=eps)

    return clipped
