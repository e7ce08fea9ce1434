"""MeanFlow: the mean velocity of the straight path between two times.

It gives samples in one or a few steps.

On the path x_t = (1 - t) x0 + t noise, with v the velocity of its flow, the mean velocity from t down to s is

    u(x_t, s, t) = 1/(t - s) int_s^t v(x_r, r) dr,      x_s = x_t - (t - s) u,      u(x_t, t, t) = v(x_t, t),

and differentiating (t - s) u along the flow gives the MeanFlow identity, whose right-hand side is the target of u:

    u = v - (t - s) d/dt u(x_t, s, t),      d/dt u = v · grad u + partial u / partial t.

The derivative is one `jax.jvp`. v is noise - x0 of the example, whose mean given x_t is the velocity of the flow.
With a shift of the schedule, t here is its sigma.

Reference: Geng et al. 2025 (MeanFlow), eq. 6 and algorithm 1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from diffusion_jax.declarations import declare
from diffusion_jax.objective.conditionings import Conditioning
from diffusion_jax.objective.losses import Batch, Loss
from diffusion_jax.objective.prediction import Denoiser
from diffusion_jax.process.base import Array, Level, Process, ScheduleFromParams, expand, level, normal, split_all


def interval_conditioning(conditioning: Conditioning) -> Conditioning:
    """Return the conditioning [B,2] on the level of t, and on t - s. 0 for a level without s."""

    def both(level: Level) -> Array:
        gap = jnp.zeros_like(level.t) if level.until is None else level.t - level.until
        return jnp.stack([conditioning(level), gap], -1)

    return both


@dataclasses.dataclass(frozen=True)
class IntervalNetwork:
    """Network of the mean velocity, made of any network. t - s is one more channel of its input."""

    network: Any

    def init(self, key: Array, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Any:
        """Return fresh parameters {"params": …}; time [B] or [B,2], as in `apply`."""
        return self.network.init(key, *_inputs(x, time), label, keys)

    def apply(
        self, variables: Any, x: Array, time: Array, label: Array | None = None, keys: Array | None = None
    ) -> Array:
        """Return the output for x [B,*D] and time [B,2], see `interval_conditioning`; or [B], where s is t."""
        output: Array = self.network.apply(variables, *_inputs(x, time), label, keys)
        return output


def _inputs(x: Array, time: Array) -> tuple[Array, Array]:
    """Return (x with a channel of t - s, time of t [B])."""
    time, gap = (time, jnp.zeros_like(time)) if time.ndim == 1 else (time[:, 0], time[:, 1])
    channel = jnp.broadcast_to(expand(gap, x), (*x.shape[:-1], 1)).astype(x.dtype)
    return jnp.concatenate([x, channel], -1), time


def identity(
    u: Callable[[Array, Array], Array], x_t: Array, t: Array, gap: Array, v: Array, rate: Array
) -> tuple[Array, Array]:
    """Return (u, v - gap d/dsigma u) [B,*D], both sides of the MeanFlow identity.

    u: the mean velocity down to a fixed s, of x_t [B,*D] and t [B]. gap: sigma_t - sigma_s [B]. v: the velocity at x_t.
    rate: d sigma/dt [B].
    """
    mean, along = jax.jvp(u, (x_t, t), (v, 1 / rate))
    return mean, v - expand(gap, v) * along


@declare(gaussian=True, mean_velocity=True)
def mean_flow(
    predict: Denoiser,
    process: Process,
    schedule: ScheduleFromParams,
    share: float = 0.25,
    mean: float = -0.4,
    scale: float = 1.0,
    power: float = 1.0,
    offset: float = 1e-3,
) -> Loss:
    """MeanFlow loss: the squared error of u, divided by a power of itself.

    |u - target|² / (|u - target|² + offset)^power, with sums over the dimensions, and no gradient of the denominator.

    Args:
        predict, process, schedule: of the model; the level that its denoiser takes has `until`.
        share: of examples with s < t; all other examples have s = t, on which u is the velocity.
        mean, scale: of the second time of these examples, with log(t/(1 - t)) ~ N(mean, scale²); the later one is t.
        power: 0 for the plain squared error.
        offset: c of the paper.

    Metrics: mse, the mean squared error without weight. Raises ValueError for options out of range.
    Reference: Geng et al. 2025 (MeanFlow), algorithm 1, section 4.3 and table 1.
    """
    if not (0 <= share <= 1 and scale > 0 and power >= 0 and offset > 0):
        raise ValueError(
            f"loss.mean_flow: needs share in [0, 1], scale > 0, power >= 0 and offset > 0 (got share={share}, "
            f"scale={scale}, power={power}, offset={offset})"
        )

    def loss(params: Any, batch: Batch, t: Array, keys: Array, dropout: bool = True) -> tuple[Array, dict[str, Array]]:
        x0, path = batch["x0"], schedule(params)
        keys_noise, keys_dropout, keys_time = split_all(keys, 3)
        noise = batch["noise"] if "noise" in batch else normal(keys_noise, x0.shape[1:], x0.dtype)
        drawn = normal(keys_time, (2,), t.dtype)
        other = jax.nn.sigmoid(mean + scale * drawn[:, 0])
        apart = ndtr(drawn[:, 1]) < share
        inner = jnp.finfo(t.dtype).eps ** 0.5  # off both ends, where the logarithms of the level have no derivative
        t, s = (jnp.clip(jnp.where(apart, ends(t, other), t), inner, 1 - inner) for ends in (jnp.maximum, jnp.minimum))

        def u(x: Array, t: Array) -> Array:
            prediction = predict(
                params, x, level(path, t)._replace(until=s), batch["label"], keys_dropout if dropout else None
            )
            return prediction.eps - prediction.x0

        at = level(path, t)
        sigma, rate = jax.jvp(lambda t: level(path, t).sigma, (t,), (jnp.ones_like(t),))
        x_t, v = process.corrupt(at, x0, noise), noise - x0
        found, aim = identity(u, x_t, t, sigma - level(path, s).sigma, v, rate)
        error = jnp.square(found - jax.lax.stop_gradient(aim)).reshape(len(x0), -1)
        total = error.sum(1)
        return total / jax.lax.stop_gradient(total + offset) ** power, {"mse": error.mean(1)}

    return loss
