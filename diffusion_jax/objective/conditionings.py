"""Inputs of a network that tell it the noise level.

A number that it is conditioned on, and a factor on x_t at its input.
"""

from collections.abc import Callable

import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.process.base import Array, Level

Conditioning = Callable[[Level], Array]
"""Levels [B] -> the number [B] that the network is conditioned on."""
InputScale = Callable[[Level], Array]
"""Levels [B] -> the factor [B] on x_t at the input of the network."""


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
