"""Training losses: `loss(params, batch, t[B], keys[B], dropout=True) -> (per_example[B], metrics)`, never averaged.

All of them here are mean squared errors of the network's own target, times a weight. Because x_t is known, an error in
any target is an error in x0 scaled by a function of the level, so one weight serves every parameterisation: it is
stated relative to the error of eps, and `rescale` carries it over to the target at hand.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.objective.prediction import Predict, Target, combine
from diffusion_jax.process.base import Array, Level, Process, Schedule, level, normal

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


def truncated_snr() -> Weight:
    """max(SNR, 1) on the error of x0. Source: Salimans and Ho 2022, section 4."""
    return lambda level, row: jnp.maximum(1, jnp.exp(-level.logsnr)) * rescale(level, row)


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) on the error of x0. Source: Hang et al. 2023, eq. 5."""
    return lambda level, row: jnp.minimum(1, gamma * jnp.exp(-level.logsnr)) * rescale(level, row)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """1/(k + SNR)^gamma on the error of eps. Source: Choi et al. 2022, eq. 8."""
    return lambda level, row: (k + jnp.exp(level.logsnr)) ** -gamma * rescale(level, row)


WEIGHTS: dict[str, Callable[..., Weight]] = {
    "simple": simple,
    "snr": snr,
    "truncated_snr": truncated_snr,
    "min_snr": min_snr,
    "p2": p2,
}


def weighted_mse(
    predict: Predict, process: Process, schedule: Callable[[Any], Schedule], target: Target, weight: Weight
) -> Loss:
    """weight · mean over dimensions of (target - predicted target)².

    batch: {"x0": float [B,*D] in the model's range, "label": int [B], …}. keys[B]: one per example, for its noise and
    (unless dropout is off, as in evaluation) its dropout masks. Metrics: "mse" [B], the error without the weight.
    """

    def loss(
        params: Any, batch: dict[str, Array], t: Array, keys: Array, dropout: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        x0 = batch["x0"]
        keys_noise, keys_dropout = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        noise = normal(keys_noise, x0.shape[1:], x0.dtype)
        path = schedule(params)
        at = level(path, t)
        x_t = process.corrupt(at, x0, noise)
        prediction = predict(params, x_t, at, batch["label"], keys_dropout if dropout else None)
        row = target(path, at)
        error = combine(row, x0, noise) - combine(row, prediction.x0, prediction.eps)
        mse = jnp.square(error).reshape(len(t), -1).mean(1)
        return weight(at, row) * mse, {"mse": mse}

    return loss
