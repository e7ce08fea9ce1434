"""Heun's method with churn: noise is added before each step of the ODE, and taken away again with what it corrects."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, Schedule, expand, level, normal, time_of
from diffusion_jax.sampling.loop import BoundPredict, Method


class ChurnRow(NamedTuple):
    """One step t -> s by way of a noisier level u >= t."""

    at: Level
    to: Level
    up: Level
    """The level u; t itself where no noise is added."""
    grown: Array
    """alpha_u/alpha_t."""
    added: Array
    """alpha_u sqrt(S_u² - S_t²), with S = sigma/alpha."""
    kept: Array
    """alpha_s/alpha_u."""
    change: Array
    """alpha_s (S_s - S_u)."""


def edm(churn: float = 0.0, s_min: float = 0.0, s_max: float = 1e9, s_noise: float = 1.0) -> Method:
    """y = x/alpha and S = sigma/alpha: y_u = y + sqrt(S_u² - S_t²) s_noise noise, then Heun on dy = eps dS from u to s.

    S_u = (1 + min(churn/N, sqrt(2) - 1)) S_t where s_min <= S_t <= s_max, but never above S at t = 1; N steps.
    Source: Karras et al. 2022, algorithm 2. Two network calls; one at the step that ends without noise.
    Raises ValueError for options that make no sense.
    """
    if not (churn >= 0 and 0 <= s_min <= s_max and s_noise > 0):
        raise ValueError(
            f"sampler.edm: churn={churn} must be at least 0, s_min={s_min} and s_max={s_max} rising from 0, and "
            f"s_noise={s_noise} above 0"
        )

    def prepare(schedule: Schedule, rows: Any) -> ChurnRow:
        at, to = rows.at, rows.to
        ratio = jnp.exp(-at.logsnr / 2)
        more = jnp.where((s_min <= ratio) & (ratio <= s_max), min(churn / len(at.t), 2**0.5 - 1), 0.0)
        logsnr = jnp.maximum(at.logsnr - 2 * jnp.log1p(more), at.logsnr[0])
        up = at
        if churn:
            higher = level(schedule, time_of(schedule, logsnr))
            up = Level(*(jnp.where(logsnr < at.logsnr, u, t) for u, t in zip(higher, at, strict=True)))
        return ChurnRow(
            at=at,
            to=to,
            up=up,
            grown=jnp.exp(up.log_alpha - at.log_alpha),
            added=up.sigma * jnp.sqrt(-jnp.expm1(up.logsnr - at.logsnr)),
            kept=jnp.exp(to.log_alpha - up.log_alpha),
            change=to.sigma - jnp.exp(to.log_alpha - up.logsnr / 2),
        )

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: ChurnRow, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        if churn:
            noise = s_noise * normal(keys, x.shape[1:], x.dtype)
            x = expand(row.grown, x) * x + expand(row.added, x) * noise
        found = predict(x, row.up)
        kept, change = expand(row.kept, x) * x, expand(row.change, x)

        def corrected() -> Array:
            eps = predict(kept + change * found.eps, row.to).eps
            return kept + change * (found.eps + eps) / 2

        return jax.lax.cond(jnp.isneginf(row.to.log_sigma[0]), lambda: found.x0, corrected), memory

    return Method(step, prepare=prepare, signal=True)
