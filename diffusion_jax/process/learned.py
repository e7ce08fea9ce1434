"""Learned noise schedules, trained with the network by the gradient of the bound.

A factory returns a `LearnedSchedule`: initial parameters, and the schedule that parameters give. The schedule computes
in the dtype of t, so the same function serves training in float32 and a frozen run in float64 on the host.
`ModelSchedule` is the schedule of a model, fixed or learned.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.base import Array, Schedule, ScheduleFromParams
from diffusion_jax.process.schedules import dpm2015_logits, dpm2015_rates


class LearnedSchedule(NamedTuple):
    """Noise schedule with parameters of its own."""

    init: Callable[[Array], Any]
    """PRNG key -> initial parameters, a tree of float32 arrays."""
    schedule: ScheduleFromParams
    """`schedule(params) -> Schedule`, differentiable in `params`, a tree as `init` returns it."""


@dataclasses.dataclass(frozen=True)
class ModelSchedule:
    """Noise schedule of a model, fixed or learned: an implementation of `base.ScheduleFromParams`.

    path = ModelSchedule(schedules.cosine(1000))             path.fixed is the schedule
    path = ModelSchedule(learned.gamma())                    path.fixed is None
    path = ModelSchedule(learned.gamma()).freeze(params)     path.fixed is the schedule after training
    """

    source: Schedule | LearnedSchedule
    """What a factory of `schedules` or of this module returns."""

    @property
    def fixed(self) -> Schedule | None:
        """The schedule, if it has no parameters, else None."""
        return None if isinstance(self.source, LearnedSchedule) else self.source

    def __call__(self, params: Any) -> Schedule:
        """Return the schedule; of a learned one `params["schedule"]` are the parameters."""
        if isinstance(self.source, LearnedSchedule):
            return self.source.schedule(params["schedule"])
        return self.source

    def init(self, key: Array) -> Any:
        """Return initial parameters, the `params["schedule"]` of a model; None for a fixed schedule."""
        return self.source.init(key) if isinstance(self.source, LearnedSchedule) else None

    def freeze(self, params: Any) -> "ModelSchedule":
        """Return the fixed schedule that the parameters of a trained model give, as float64 constants."""
        if not isinstance(self.source, LearnedSchedule):
            return self
        constants = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["schedule"])
        return ModelSchedule(self.source.schedule(constants))


def betas(num_steps: int, first_beta: float = 1e-3, bumps: int = 0) -> LearnedSchedule:
    """Chain with learned rates: beta_1 = first_beta, logit beta_k = logit(1/linspace(T, 2, T))_k + perturbation_k.

    The initial perturbation is 0, which gives `schedules.dpm2015`.

    Args:
        num_steps: T, the number of steps of the chain.
        first_beta: beta_1, which is not learned.
        bumps: 0 for one parameter per step; otherwise the number of Gaussian bumps in time (`bump_weights`) whose
            coefficients are the parameters.

    Raises ValueError for fewer than two steps, and for first_beta outside (0, 1).
    Reference: Sohl-Dickstein et al. 2015, section 2.4.1, with the rates of their public code.
    """
    offsets = dpm2015_logits(num_steps)
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
            # The gradient of log sigma is infinite at t = 0, and `where` would pass it on as NaN: avoid computing it.
            noisy = t > 0
            log_alpha = jnp.where(noisy, log_alpha, 0)
            log_sigma = 0.5 * jnp.log(-jnp.expm1(2 * jnp.where(noisy, log_alpha, -1)))
            return log_alpha, jnp.where(noisy, log_sigma, -jnp.inf)

        return schedule

    return LearnedSchedule(init, schedule_of)


def bump_weights(k: np.ndarray, num_steps: int, bumps: int, width: float = 1.0) -> np.ndarray:
    """Return Gaussian bumps in time around evenly spaced centres: [N, bumps].

    They are evaluated at the steps k [N] in 0 … T - 1. Their standard deviation is `width` times the distance of the
    centres; at each step they sum to one.
    Reference: Sohl-Dickstein et al. 2015, appendix D.2.1 (width 1; 1/2 in the public code).
    """
    centres = np.linspace(-1, 1, bumps)
    spread = width * (centres[1] - centres[0] if bumps > 1 else 1.0)
    at = 2 * k / max(1, num_steps - 1) - 1
    log = -((at[:, None] - centres) ** 2) / (2 * spread**2)
    weights = np.exp(log - log.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def gamma(gamma_min: float = -13.3, gamma_max: float = 5.0) -> LearnedSchedule:
    """Linear log-SNR schedule with learned ends: gamma(t) = log(sigma²/alpha²) = bias + |slope| t.

    It starts as `schedules.linear_logsnr`. Reference: Kingma et al. 2021.
    """

    def init(key: Array) -> dict[str, Array]:
        return {"bias": jnp.full((), gamma_min), "slope": jnp.full((), gamma_max - gamma_min)}

    def schedule_of(params: dict[str, Array]) -> Schedule:
        return _from_gamma(lambda t: _cast(params["bias"], t) + jnp.abs(_cast(params["slope"], t)) * t)

    return LearnedSchedule(init, schedule_of)


def gamma_net(gamma_min: float = -13.3, gamma_max: float = 5.0, width: int = 1024) -> LearnedSchedule:
    """Monotone network between learned ends: gamma(t) = gamma_0 + |slope| (f(t) - f(0)) / (f(1) - f(0)).

    f(t) = h + |w3| · sigmoid(|w2| h + b2) with h = |w1| t + b1 and `width` hidden units.
    Reference: Kingma et al. 2021, appendix H.
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

        return _from_gamma(value)

    return LearnedSchedule(init, schedule_of)


def _cast(param: Array, t: Array) -> Array:
    return jnp.asarray(param, t.dtype)


def _from_gamma(gamma: Callable[[Array], Array]) -> Schedule:
    """Return the variance-preserving schedule with gamma = log(sigma²/alpha²)."""

    def schedule(t: Array) -> tuple[Array, Array]:
        value = gamma(t)
        return -0.5 * jnp.logaddexp(0, value), -0.5 * jnp.logaddexp(0, -value)

    return schedule


LEARNED: dict[str, Callable[..., LearnedSchedule]] = {
    "learned_betas": betas,
    "learned_gamma": gamma,
    "learned_gamma_net": gamma_net,
}
"""Learned schedules by name; one with a parameter `num_steps` is a chain."""
