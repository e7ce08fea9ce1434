"""Schedules with parameters: trained with the network, by the gradient of the bound through frozen noise.

A factory returns a `Learned`: what its parameters are at first, and the schedule that they mean. The schedule computes
in the dtype of t, so the same function serves training in float32 and a frozen run in float64 on the host.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.base import Array, Schedule
from diffusion_jax.process.schedules import dpm2015_offsets, dpm2015_rates


class Learned(NamedTuple):
    """A schedule with parameters."""

    init: Callable[[Array], Any]
    """`init(key) -> params`, a tree of float32 arrays."""
    schedule: Callable[[Any], Schedule]
    """`schedule(params) -> Schedule`, differentiable in params."""


def betas(num_steps: int, first_beta: float = 1e-3, bumps: int = 0) -> Learned:
    """The rates of a chain: beta_1 = first_beta, logit beta_k = logit(1/linspace(T, 2, T))_k + perturbation_k.

    The perturbation, 0 at first (`schedules.dpm2015`), is a free number for each step, or with bumps > 0 a sum of so
    many `bumps` in time with a coefficient each. Source: Sohl-Dickstein et al. 2015, section 2.4.1, in the form that
    their public code gives the rates (where they stay as they are). Raises ValueError for fewer than two steps.
    """
    offsets = dpm2015_offsets(num_steps)
    if not 0 < first_beta < 1:
        raise ValueError(f"schedule: first_beta={first_beta} must lie between 0 and 1")
    basis = bump_weights(np.arange(1, num_steps), num_steps, bumps) if bumps else np.eye(num_steps - 1)

    def init(key: Array) -> dict[str, Array]:
        return {"perturbation": jnp.zeros(basis.shape[1])}

    def schedule_of(params: dict[str, Array]) -> Schedule:
        def schedule(t: Array) -> tuple[Array, Array]:
            weights = jnp.asarray(params["perturbation"], t.dtype)
            perturbation = jnp.matmul(jnp.asarray(basis, t.dtype), weights, precision="highest")
            rates = dpm2015_rates(jax.nn.sigmoid(jnp.asarray(offsets, t.dtype) + perturbation))
            steps = jnp.log1p(-jnp.concatenate([jnp.full(1, first_beta, t.dtype), rates])) / 2
            ends = jnp.cumsum(steps)
            u = t * num_steps
            k = jnp.clip(jnp.floor(u), 0, num_steps - 1).astype(jnp.int32)
            log_alpha = ends[k] + steps[k] * (u - k - 1)
            # The gradient is that of where it is asked for, so t = 0 must not even be computed: it is infinite there.
            noisy = t > 0
            log_alpha = jnp.where(noisy, log_alpha, 0)
            log_sigma = 0.5 * jnp.log(-jnp.expm1(2 * jnp.where(noisy, log_alpha, -1)))
            return log_alpha, jnp.where(noisy, log_sigma, -jnp.inf)

        return schedule

    return Learned(init, schedule_of)


def bump_weights(k: np.ndarray, num_steps: int, bumps: int, width: float = 1.0) -> np.ndarray:
    """Bumps in time at the steps k [N], in 0 … T - 1: Gaussians around `bumps` evenly spaced centres, [N, bumps].

    Their standard deviation is `width` times the distance of the centres; at each step they sum to one. Source:
    Sohl-Dickstein et al. 2015, appendix D.2.1 (width 1; 1/2 in the public code).
    """
    centres = np.linspace(-1, 1, bumps)
    spread = width * (centres[1] - centres[0] if bumps > 1 else 1.0)
    at = 2 * k / max(1, num_steps - 1) - 1
    log = -((at[:, None] - centres) ** 2) / (2 * spread**2)
    weights = np.exp(log - log.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def gamma(gamma_min: float = -13.3, gamma_max: float = 5.0) -> Learned:
    """`schedules.linear_logsnr` whose two ends are learned: gamma(t) = bias + |slope| t. Source: Kingma et al. 2021."""

    def init(key: Array) -> dict[str, Array]:
        return {"bias": jnp.full((), gamma_min), "slope": jnp.full((), gamma_max - gamma_min)}

    def schedule_of(params: dict[str, Array]) -> Schedule:
        return _of_gamma(lambda t: _cast(params["bias"], t) + jnp.abs(_cast(params["slope"], t)) * t)

    return Learned(init, schedule_of)


def gamma_net(gamma_min: float = -13.3, gamma_max: float = 5.0, width: int = 1024) -> Learned:
    """gamma(t) by a monotone network between two learned ends: gamma_0 + |slope| (f(t) - f(0)) / (f(1) - f(0)).

    f(t) = h + |w3| · sigmoid(|w2| h + b2) with h = |w1| t + b1. Source: Kingma et al. 2021, appendix H.
    """

    def init(key: Array) -> dict[str, Array]:
        key_weight, key_bias, key_out = jax.random.split(key, 3)
        return {
            "bias": jnp.full((), gamma_min),
            "slope": jnp.full((), gamma_max - gamma_min),
            "w1": jnp.ones(()),
            "b1": jnp.zeros(()),
            "w2": 10 * jax.random.normal(key_weight, (width,)),
            "b2": 10 * jax.random.normal(key_bias, (width,)),
            "w3": jax.random.normal(key_out, (width,)) / width,
        }

    def schedule_of(params: dict[str, Array]) -> Schedule:
        def value(t: Array) -> Array:
            p = {name: _cast(param, t) for name, param in params.items()}

            def f(t: Array) -> Array:
                h = jnp.abs(p["w1"]) * t + p["b1"]
                hidden = jax.nn.sigmoid(jnp.abs(p["w2"]) * h[..., None] + p["b2"])
                return h + jnp.matmul(hidden, jnp.abs(p["w3"]), precision="highest")

            first, last = f(jnp.zeros_like(t)), f(jnp.ones_like(t))
            return p["bias"] + jnp.abs(p["slope"]) * (f(t) - first) / (last - first)

        return _of_gamma(value)

    return Learned(init, schedule_of)


def _cast(param: Array, t: Array) -> Array:
    return jnp.asarray(param, t.dtype)


def _of_gamma(gamma: Callable[[Array], Array]) -> Schedule:
    """The variance-preserving schedule with gamma = log(sigma²/alpha²)."""

    def schedule(t: Array) -> tuple[Array, Array]:
        value = gamma(t)
        return -0.5 * jnp.logaddexp(0, value), -0.5 * jnp.logaddexp(0, -value)

    return schedule


LEARNED: dict[str, Callable[..., Learned]] = {
    "learned_betas": betas,
    "learned_gamma": gamma,
    "learned_gamma_net": gamma_net,
}
"""By name; the first needs the number of steps."""
