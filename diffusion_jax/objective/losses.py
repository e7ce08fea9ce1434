"""Training losses, per example and never averaged.

A loss is a sum of terms, each a function of one noisy batch: x_t and the prediction of the denoiser.

- `weighted_mse`: the squared error of the network's own target, times a weight. Because x_t is known, an error in any
  target is an error in x0 scaled by a function of the level, so one weight serves every parameterisation: it is stated
  relative to the error of eps, and `eps_error_ratio` carries it over to the target at hand.
- `vlb`: the term of the variational bound that belongs to the sampled step; `K`: likewise of the bound K of 2015;
  `boundary_terms`: the parts of the bound that belong to no step, for a schedule that is learned; `vdm`: the bound in
  continuous time.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.objective import bound
from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.prediction import ClassLogProbs, Denoiser, Prediction
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.objective.targets import Target, combine_x0_eps
from diffusion_jax.process.base import (
    Array,
    CoefficientsFromParams,
    Level,
    Process,
    Schedule,
    ScheduleFromParams,
    expand,
    level,
    normal,
    split_all,
)
from diffusion_jax.process.sde import drift_and_diffusion

Batch = dict[str, Array]
"""Training batch: "x0" float [B,*D] in the model's range, "label" int [B] (-1 for none), and "index" int [B], the place
of each example in the global batch, from which its PRNG keys and its time follow. "noise" float [B,*D] takes the place
of the noise that a loss draws, for examples and noise that are coupled. "augment" float [B,A] is the label of the
augmentation of x0, see `augmented`."""


class Loss(Protocol):
    """Training loss."""

    def __call__(
        self, params: Any, batch: Batch, t: Array, keys: Array, /, dropout: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        """Return (loss[B], metrics), metrics being further values [B] by name.

        t: times [B]. keys: PRNG keys [B] for noise and dropout. dropout: False switches it off, for evaluation.
        """


class Weight(Protocol):
    """Weight of the squared error of a network's target."""

    def __call__(self, level: Level, target: tuple[Array, Array], /) -> Array:
        """Return the weight [B] at levels [B], for a target with coefficients (a, b), each [B]."""


def eps_error_ratio(level: Level, target: tuple[Array, Array]) -> Array:
    """Return (error of eps / error of the target)² [B], (alpha / (alpha b - sigma a))² for coefficients (a, b)."""
    a, b = target
    return 1 / (b - jnp.exp(-level.logsnr / 2) * a) ** 2


def simple() -> Weight:
    """Weight 1 on the network's own target; for eps this is L_simple. Reference: Ho et al. 2020, eq. 14."""
    return lambda level, target: jnp.ones_like(level.t)


def snr() -> Weight:
    """Weight SNR on the squared error of x0. Equal to weight 1 on the error of eps."""
    return lambda level, target: eps_error_ratio(level, target)


def x0_error_ratio(level: Level, target: tuple[Array, Array]) -> Array:
    """Return (error of x0 / error of the target)² [B]: `eps_error_ratio` / SNR, but finite where alpha = 0."""
    a, b = target
    return 1 / (a - jnp.exp(level.logsnr / 2) * b) ** 2


def truncated_snr() -> Weight:
    """Weight max(SNR, 1) on the error of x0. Reference: Salimans and Ho 2022, section 4."""
    return lambda level, target: jnp.maximum(eps_error_ratio(level, target), x0_error_ratio(level, target))


def min_snr(gamma: float = 5.0) -> Weight:
    """Weight min(SNR, gamma) on the error of x0. Reference: Hang et al. 2023, eq. 5."""
    return lambda level, target: jnp.minimum(1, gamma * jnp.exp(-level.logsnr)) * eps_error_ratio(level, target)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """Weight 1/(k + SNR)^gamma on the error of eps. Reference: Choi et al. 2022, eq. 8."""
    return lambda level, target: (k + jnp.exp(level.logsnr)) ** -gamma * eps_error_ratio(level, target)


def edm(sigma_data: float = 0.5) -> Weight:
    """Weight SNR + 1/sigma_data² on the error of x0, which is 1 on the target `edm`.

    Reference: Karras et al. 2022, table 1.
    """
    return lambda level, target: eps_error_ratio(level, target) + x0_error_ratio(level, target) / sigma_data**2


def likelihood_weight(schedule: Schedule) -> Weight:
    """Weight g² on the error of the score.

    This is the weight g²/sigma² on the error of eps. The loss is then a bound on the likelihood. For a fixed schedule.
    Reference: Song et al. 2021b (maximum likelihood training), eq. 7.
    """

    def weight(level: Level, target: tuple[Array, Array]) -> Array:
        return gamma_rate(schedule, level.t) * eps_error_ratio(level, target)

    return weight


def gamma_rate(schedule: Schedule, t: Array) -> Array:
    """Return d gamma/dt for gamma = log(sigma²/alpha²), which is g²/sigma²; differentiable in the schedule."""
    _, g2 = drift_and_diffusion(schedule, t)
    _, log_sigma = schedule(t)
    return g2 * jnp.exp(-2 * log_sigma)


WEIGHTS: dict[str, Callable[..., Weight]] = {
    "simple": simple,
    "snr": snr,
    "truncated_snr": truncated_snr,
    "min_snr": min_snr,
    "p2": p2,
    "edm": edm,
    "likelihood": likelihood_weight,
}
"""Weights by name."""


class NoisyBatch(NamedTuple):
    """A batch after corruption, with the prediction of the denoiser."""

    level: Level
    """Noise levels [B]."""
    x0: Array
    """Clean examples [B,*D]."""
    noise: Array
    """The noise that was drawn [B,*D]."""
    x_t: Array
    """Noisy examples [B,*D], corrupt(level, x0, noise)."""
    prediction: Prediction
    """Of the denoiser at x_t."""


class Term(Protocol):
    """Term of a loss."""

    def __call__(self, params: Any, noisy: NoisyBatch, /) -> Array:
        """Return the term [B] for the parameters of the model and a batch."""


REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda squares: squares.mean(1),
    "sum": lambda squares: squares.sum(1),
    "half_sum": lambda squares: 0.5 * squares.sum(1),
}
"""Reductions of squared errors [B,D] to [B], by name; they scale the gradients, and thus matter to clipping."""


def weighted_mse(schedule: ScheduleFromParams, target: Target, weight: Weight, reduction: str = "mean") -> Term:
    """Weighted squared error of the target: weight · mean over dimensions of (target - predicted target)².

    The predicted target is recombined from the predicted (x0, eps), so that this term, like every other, depends on
    the `Prediction` alone; up to rounding it is the output of the network. reduction: a name of REDUCTIONS.
    """

    def term(params: Any, noisy: NoisyBatch) -> Array:
        ab = target(schedule(params), noisy.level)
        predicted = combine_x0_eps(ab, noisy.prediction.x0, noisy.prediction.eps)
        error = combine_x0_eps(ab, noisy.x0, noisy.noise) - predicted
        return weight(noisy.level, ab) * REDUCTIONS[reduction](jnp.square(error).reshape(len(error), -1))

    return term


def vlb(
    step_term: bound.StepTerm, coefficients: CoefficientsFromParams, num_steps: int, stop_mean: bool = False
) -> Term:
    """Variational bound in bits/dim: num_steps · its term of the step that starts at t.

    Its mean over t = k/num_steps is the bound without the terms that no parameter enters. coefficients: of the steps
    of the chain, the step from t = 1 first. stop_mean: train the variance alone.
    Reference: Ho et al. 2020, eq. 5; Nichol and Dhariwal 2021, section 3.1.
    """

    def term(params: Any, noisy: NoisyBatch) -> Array:
        i = num_steps - jnp.round(noisy.level.t * num_steps).astype(jnp.int32)
        step = jax.tree.map(lambda field: jnp.asarray(field, noisy.x_t.dtype)[i], coefficients(params))
        prediction = bound.stop_mean_gradient(noisy.prediction) if stop_mean else noisy.prediction
        nats = step_term(step, prediction, noisy.x0, noisy.x_t)
        return num_steps * bound.bits_per_dim(nats, noisy.x0.shape[1:])

    return term


def vdm(process: Process, schedule: ScheduleFromParams, decode: Decoder) -> dict[str, Term]:
    """Variational bound in continuous time, in bits/dim, by its three terms:

        diffusion       1/2 d gamma/dt · sum of (noise - eps)², whose mean over t in [0, 1] is the term,
        prior           KL(q(x_1 | x0) || p(x_1)),
        reconstruction  -log p(x0 | x_0), x_0 at t = 0, where the schedule must still have noise.

    A learned schedule is trained by all three. Reference: Kingma et al. 2021, eq. 11 and 18.
    """

    def diffusion(params: Any, noisy: NoisyBatch) -> Array:
        error = jnp.square(noisy.noise - noisy.prediction.eps).reshape(len(noisy.noise), -1).sum(1)
        return in_bits(0.5 * gamma_rate(schedule(params), noisy.level.t) * error, noisy)

    def prior(params: Any, noisy: NoisyBatch) -> Array:
        return in_bits(process.prior_kl(schedule(params), noisy.x0), noisy)

    def reconstruction(params: Any, noisy: NoisyBatch) -> Array:
        gamma = -level(schedule(params), jnp.zeros_like(noisy.level.t)).logsnr
        mean = noisy.x0 + expand(jnp.exp(0.5 * gamma), noisy.x0) * noisy.noise
        return in_bits(decode(noisy.x0, mean, expand(gamma, mean)).reshape(len(mean), -1).sum(1), noisy)

    def in_bits(nats: Array, noisy: NoisyBatch) -> Array:
        return bound.bits_per_dim(nats, noisy.x0.shape[1:])

    return {"diffusion": diffusion, "prior": prior, "reconstruction": reconstruction}


def K(
    process: Process,
    kernel: Reverse,
    schedule: ScheduleFromParams,
    coefficients: CoefficientsFromParams,
    num_steps: int,
) -> Term:
    """Bound -K in bits/dim, from one step of the chain.

    num_steps · the KL of the step that starts at t, minus the boundary terms. The step to t = 0 has no term, so the T
    times of a chain serve T - 1 steps.
    Reference: Sohl-Dickstein et al. 2015, eq. 14.
    """
    steps = vlb(bound.K_term(process, kernel), coefficients, num_steps)

    def term(params: Any, noisy: NoisyBatch) -> Array:
        boundary = bound.K_boundary(process, schedule(params), coefficients(params), noisy.x0)
        return steps(params, noisy) - bound.bits_per_dim(boundary, noisy.x0.shape[1:])

    return term


def boundary_terms(process: Process, schedule: ScheduleFromParams, decode: Decoder | None) -> Term:
    """Terms of the bound that belong to no step, in bits/dim.

    They train a learned schedule, and are constant for a fixed one: KL(q(x_1 | x0) || p(x_1)) and, with a decoder,
    -log p(x0 | x_0) at t = 0. Reference: Kingma et al. 2021, eq. 11.
    """

    def term(params: Any, noisy: NoisyBatch) -> Array:
        nats = process.prior_kl(schedule(params), noisy.x0)
        if decode is not None:
            at = level(schedule(params), jnp.zeros_like(noisy.level.t))
            x = process.corrupt(at, noisy.x0, noisy.noise) * expand(jnp.exp(-at.log_alpha), noisy.x0)
            nats += decode(noisy.x0, x, -expand(at.logsnr, x)).reshape(len(nats), -1).sum(1)
        return bound.bits_per_dim(nats, noisy.x0.shape[1:])

    return term


def weighted_sum(
    predict: Denoiser, process: Process, schedule: ScheduleFromParams, terms: Mapping[str, tuple[float, Term]]
) -> Loss:
    """Loss that is the sum of factor · term, for terms {name: (factor, term)}.

    Its metrics are the terms by name, without their factors.
    """

    def loss(params: Any, batch: Batch, t: Array, keys: Array, dropout: bool = True) -> tuple[Array, dict[str, Array]]:
        x0 = batch["x0"]
        keys_noise, keys_dropout = split_all(keys)
        noise = batch["noise"] if "noise" in batch else normal(keys_noise, x0.shape[1:], x0.dtype)
        at = level(schedule(params), t)
        x_t = process.corrupt(at, x0, noise)
        augment = (batch["augment"],) if "augment" in batch else ()
        prediction = predict(params, x_t, at, batch["label"], keys_dropout if dropout else None, *augment)
        noisy = NoisyBatch(at, x0, noise, x_t, prediction)
        metrics = {name: term(params, noisy) for name, (_, term) in terms.items()}
        total = sum((factor * metrics[name] for name, (factor, _) in terms.items()), jnp.zeros_like(t))
        return total, metrics

    return loss


def augmented(loss: Loss, augment: Callable[[Array, Array], tuple[Array, Array]]) -> Loss:
    """Wrap a loss with augmentation: in training, with dropout, of its examples after `augment`.

    augment: x0 [B,*D] and keys [B] -> x0 [B,*D] and labels [B,A], on which the network is conditioned.
    """

    def wrapped(
        params: Any, batch: Batch, t: Array, keys: Array, dropout: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        if dropout:
            x0, label = augment(batch["x0"], keys)
            batch = batch | {"x0": x0, "augment": label}
        return loss(params, batch, t, keys, dropout)

    return wrapped


@declare(classifier=True)
def cross_entropy(log_probs: ClassLogProbs, process: Process, schedule: ScheduleFromParams) -> Loss:
    """Cross-entropy of a classifier of noisy examples, -log p(label | x_t) in nats; 0 where label < 0.

    Metrics: accuracy.
    Reference: Dhariwal and Nichol 2021, section 4.
    """

    def loss(params: Any, batch: Batch, t: Array, keys: Array, dropout: bool = True) -> tuple[Array, dict[str, Array]]:
        x0, label = batch["x0"], batch["label"]
        keys_noise, keys_dropout = split_all(keys)
        at = level(schedule(params), t)
        x_t = process.corrupt(at, x0, normal(keys_noise, x0.shape[1:], x0.dtype))
        log_p = log_probs(params, x_t, at, keys_dropout if dropout else None)
        nats = -jnp.take_along_axis(log_p, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
        return jnp.where(label < 0, 0, nats), {"accuracy": (log_p.argmax(1) == label).astype(nats.dtype)}

    return loss
