"""Drift and diffusion of a noise schedule, dx = f(t) x dt + g(t) dw, by differentiation.

    f = d log alpha / dt,      g² = d sigma²/dt - 2 f sigma² = 2 sigma² (d log sigma / dt - f),

so that x_t given x0 is N(alpha x0, sigma²) at every t. This covers VP, sub-VP, VE, EDM, learned schedules and chains.

Reference: Song et al. 2021, appendix B; Kingma et al. 2021, appendix B.
"""

import jax
import jax.numpy as jnp

from diffusion_jax.process.base import Array, Schedule


def drift_and_diffusion(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """Return (f, g²) at times t [*S] in [0, 1], in the dtype of t.

    log sigma rises and log alpha does not, so the difference loses nothing to rounding. At t = 0, where log sigma may
    be -inf, the result is the limit from above. A chain has constant rates within a step; at t = k/T they are the rates
    of step k, which ends there: f = T/2 log(1 - beta_k).
    """
    least = jnp.finfo(t.dtype).tiny ** 0.5
    from_below = jnp.maximum(t * (1 - 2 * jnp.finfo(t.dtype).eps), least)
    f, slope = jax.jvp(schedule, (from_below,), (jnp.ones_like(t),))[1]
    _, log_sigma = schedule(jnp.maximum(t, least))
    return f, 2 * jnp.exp(2 * log_sigma) * (slope - f)
