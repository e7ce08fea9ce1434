"""Training losses: `loss(params, batch, t[B], keys[B], dropout=True) -> (per_example[B], metrics)`, never averaged.

A loss is a sum of terms, each a function of one look at the data: a noisy x_t and what the network makes of it.

- `weighted_mse`, the squared error of the network's own target, times a weight. Because x_t is known, an error in any
  target is an error in x0 scaled by a function of the level, so one weight serves every parameterisation: it is stated
  relative to the error of eps, and `rescale` carries it over to the target at hand.
- `vlb`, the term of the variational bound that belongs to the sampled step; `K`, that of the bound of 2015; `ends`, the
  parts of the bound that belong to no step, for a schedule that is learned.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.objective import bound
from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.prediction import Predict, Prediction, Target, combine
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, Process, Schedule, expand, level, normal
from diffusion_jax.process.sde import drift_and_diffusion

Loss = Callable[..., tuple[Array, dict[str, Array]]]
Weight = Callable[[Level, tuple[Array, Array]], Array]
"""`weight(level[B], row of the target) -> [B]`, the factor on the squared error of the target."""


def rescale(level: Level, row: tuple[Array, Array]) -> Array:
    """(error of eps / error of the target)², [B]: with row (a, b) it is (alpha / (alpha b - sigma a))²."""
    a, b = row
    return 1 / (b - jnp.exp(-level.logsnr / 2) * a) ** 2


def simple() -> Weight:
    """1 on the network's own target; for eps this is L_simple. Source: Ho et al. 2020, eq. 14."""
    return lambda level, row: jnp.ones_like(level.t)


def snr() -> Weight:
    """1 on the error of eps, which is SNR on the error of x0, whatever the network predicts."""
    return lambda level, row: rescale(level, row)


def rescale_x0(level: Level, row: tuple[Array, Array]) -> Array:
    """(error of x0 / error of the target)², [B]: `rescale` / SNR, but finite where nothing of x0 is left."""
    a, b = row
    return 1 / (a - jnp.exp(level.logsnr / 2) * b) ** 2


def truncated_snr() -> Weight:
    """max(SNR, 1) on the error of x0. Source: Salimans and Ho 2022, section 4."""
    return lambda level, row: jnp.maximum(rescale(level, row), rescale_x0(level, row))


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) on the error of x0. Source: Hang et al. 2023, eq. 5."""
    return lambda level, row: jnp.minimum(1, gamma * jnp.exp(-level.logsnr)) * rescale(level, row)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """1/(k + SNR)^gamma on the error of eps. Source: Choi et al. 2022, eq. 8."""
    return lambda level, row: (k + jnp.exp(level.logsnr)) ** -gamma * rescale(level, row)


def edm(sigma_data: float = 0.5) -> Weight:
    """SNR + 1/sigma_data² on the error of x0, which is 1 on the target `edm`. Source: Karras et al. 2022, table 1."""
    return lambda level, row: rescale(level, row) + rescale_x0(level, row) / sigma_data**2


def likelihood(schedule: Schedule) -> Weight:
    """g² on the error of the score, which is g²/sigma² on that of eps: a bound on the likelihood of the diffusion.

    For a fixed schedule. Source: Song et al. 2021b (maximum likelihood training), eq. 7.
    """

    def weight(level: Level, row: tuple[Array, Array]) -> Array:
        return gamma_rate(schedule, level.t) * rescale(level, row)

    return weight


def gamma_rate(schedule: Schedule, t: Array) -> Array:
    """d gamma/dt of gamma = log(sigma²/alpha²), which is g²/sigma² of the diffusion; differentiable in the schedule."""
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
    "likelihood": likelihood,
}


class Look(NamedTuple):
    """One look at the data: x0 at a level, the noise drawn, x_t = corrupt(x0, noise), and what is predicted of it."""

    at: Level
    x0: Array
    noise: Array
    x_t: Array
    prediction: Prediction


Term = Callable[[Any, Look], Array]
"""`term(params, look) -> [B]`."""


REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda squares: squares.mean(1),
    "sum": lambda squares: squares.sum(1),
    "half_sum": lambda squares: 0.5 * squares.sum(1),
}
"""How the squared errors [B,D] of the dimensions become one [B]; it scales the gradients, and thus clipping."""


def weighted_mse(schedule: Callable[[Any], Schedule], target: Target, weight: Weight, reduction: str = "mean") -> Term:
    """weight · the mean (or another of REDUCTIONS) over dimensions of (target - predicted target)²."""

    def term(params: Any, look: Look) -> Array:
        row = target(schedule(params), look.at)
        error = combine(row, look.x0, look.noise) - combine(row, look.prediction.x0, look.prediction.eps)
        return weight(look.at, row) * REDUCTIONS[reduction](jnp.square(error).reshape(len(error), -1))

    return term


def vlb(step_term: bound.StepTerm, rows: Callable[[Any], Any], num_steps: int, stop_mean: bool = False) -> Term:
    """num_steps · the bound's term of the step that starts at t, in bits/dim.

    Its mean over t = k/num_steps is the bound without the terms that no parameter enters. rows: `params -> Row[N]` of
    the chain, the step from t = 1 first. stop_mean: train the variance alone. Source: Ho et al. 2020, eq. 5; Nichol
    and Dhariwal 2021, section 3.1.
    """

    def term(params: Any, look: Look) -> Array:
        i = num_steps - jnp.round(look.at.t * num_steps).astype(jnp.int32)
        row = jax.tree.map(lambda field: jnp.asarray(field, look.x_t.dtype)[i], rows(params))
        prediction = bound.stop_mean(look.prediction) if stop_mean else look.prediction
        nats = step_term(row, prediction, look.x0, look.x_t)
        return num_steps * bound.bits_per_dim(nats, look.x0.shape[1:])

    return term


def vdm(process: Process, schedule: Callable[[Any], Schedule], decode: Decoder) -> dict[str, Term]:
    """The bound in continuous time, in bits/dim, by its three terms, one look at the data for all of them:

        diffusion       1/2 d gamma/dt · sum of (noise - eps)², of which the mean over t in [0, 1] counts,
        prior           KL(q(x_1 | x0) || p(x_1)),
        reconstruction  -log p(x0 | x_0), x_0 at t = 0, where the schedule must still have noise.

    A learned schedule is trained by all three. Source: Kingma et al. 2021, eq. 11 and 18.
    """

    def diffusion(params: Any, look: Look) -> Array:
        error = jnp.square(look.noise - look.prediction.eps).reshape(len(look.noise), -1).sum(1)
        return in_bits(0.5 * gamma_rate(schedule(params), look.at.t) * error, look)

    def prior(params: Any, look: Look) -> Array:
        return in_bits(process.prior_kl(schedule(params), look.x0), look)

    def reconstruction(params: Any, look: Look) -> Array:
        gamma = -level(schedule(params), jnp.zeros_like(look.at.t)).logsnr
        mean = look.x0 + expand(jnp.exp(0.5 * gamma), look.x0) * look.noise
        return in_bits(decode(look.x0, mean, expand(gamma, mean)).reshape(len(mean), -1).sum(1), look)

    def in_bits(nats: Array, look: Look) -> Array:
        return bound.bits_per_dim(nats, look.x0.shape[1:])

    return {"diffusion": diffusion, "prior": prior, "reconstruction": reconstruction}


def K(
    process: Process,
    kernel: Reverse,
    schedule: Callable[[Any], Schedule],
    rows: Callable[[Any], Any],
    num_steps: int,
) -> Term:
    """-K in bits/dim, with num_steps · the KL of the step that starts at t in the place of the sum over the steps.

    The step to t = 0 has none, so the T times of a chain serve T - 1 steps. Source: Sohl-Dickstein et al. 2015, eq. 14.
    """
    of_steps = vlb(bound.K_term(process, kernel), rows, num_steps)

    def term(params: Any, look: Look) -> Array:
        ends = bound.K_ends(process, schedule(params), rows(params), look.x0)
        return of_steps(params, look) - bound.bits_per_dim(ends, look.x0.shape[1:])

    return term


def ends(process: Process, schedule: Callable[[Any], Schedule], decode: Decoder | None) -> Term:
    """What `vlb` leaves out, in bits/dim: KL(q(x_1 | x0) || p(x_1)) and, with a decoder, -log p(x0 | x_0) at t = 0.

    Only a learned schedule changes them. Source: Kingma et al. 2021, eq. 11.
    """

    def term(params: Any, look: Look) -> Array:
        nats = process.prior_kl(schedule(params), look.x0)
        if decode is not None:
            at = level(schedule(params), jnp.zeros_like(look.at.t))
            x = process.corrupt(at, look.x0, look.noise) * expand(jnp.exp(-at.log_alpha), look.x0)
            nats += decode(look.x0, x, -expand(at.logsnr, x)).reshape(len(nats), -1).sum(1)
        return bound.bits_per_dim(nats, look.x0.shape[1:])

    return term


def weighted_sum(
    predict: Predict, process: Process, schedule: Callable[[Any], Schedule], terms: Mapping[str, tuple[float, Term]]
) -> Loss:
    """The loss that is the sum of factor · term, over `terms`: name -> (factor, term).

    batch: {"x0": float [B,*D] in the model's range, "label": int [B], …}. keys[B]: one per example, for its noise and
    (unless dropout is off, as in evaluation) its dropout masks. Metrics: the terms by name, without their factors.
    """

    def loss(
        params: Any, batch: dict[str, Array], t: Array, keys: Array, dropout: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        x0 = batch["x0"]
        keys_noise, keys_dropout = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        noise = normal(keys_noise, x0.shape[1:], x0.dtype)
        at = level(schedule(params), t)
        x_t = process.corrupt(at, x0, noise)
        prediction = predict(params, x_t, at, batch["label"], keys_dropout if dropout else None)
        look = Look(at, x0, noise, x_t, prediction)
        metrics = {name: term(params, look) for name, (_, term) in terms.items()}
        total = sum((factor * metrics[name] for name, (factor, _) in terms.items()), jnp.zeros_like(t))
        return total, metrics

    return loss


def cross_entropy(log_probs: Callable[..., Array], process: Process, schedule: Callable[[Any], Schedule]) -> Loss:
    """-log p(label | x_t) of a classifier of noisy examples, in nats; 0 for examples without a label (label < 0).

    log_probs: as `prediction.classifier` makes it. Batches and keys are as for `weighted_sum`. Metrics: accuracy.
    Source: Dhariwal and Nichol 2021, section 4.
    """

    def loss(
        params: Any, batch: dict[str, Array], t: Array, keys: Array, dropout: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        x0, label = batch["x0"], batch["label"]
        keys_noise, keys_dropout = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        at = level(schedule(params), t)
        x_t = process.corrupt(at, x0, normal(keys_noise, x0.shape[1:], x0.dtype))
        found = log_probs(params, x_t, at, keys_dropout if dropout else None)
        nats = -jnp.take_along_axis(found, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
        return jnp.where(label < 0, 0, nats), {"accuracy": (found.argmax(1) == label).astype(nats.dtype)}

    return loss
