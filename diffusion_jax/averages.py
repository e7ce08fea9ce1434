"""Averages of the parameters: exponential, and power-function averages.

Power-function averages give an average of any length after training. The power-function average of exponent gamma after
t updates is, with the parameters p_i after update i,

    a_t = a_(t-1) + (1 - (1 - 1/t)^(gamma + 1)) (p_t - a_(t-1))
        = sum_i (i^(gamma+1) - (i-1)^(gamma+1)) / t^(gamma+1) p_i

so that the weight of p at time tau is w(tau) = (gamma + 1) tau^gamma / t^(gamma+1). Its length is sigma_rel, the
standard deviation of tau relative to t. Two such averages are kept; the average of another length is the combination of
their snapshots whose weights over time are nearest in the least squares.

Reference: Karras et al. 2024 (EDM2), section 3 and appendix C.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

ASKED = "posthoc:"
"""Prefix of a name of weights that are reconstructed: "posthoc:0.1" for sigma_rel = 0.1."""
KEPT = "power:"
"""Prefix of the name of an average kept in training, before its sigma_rel."""
ENOUGH = 8
"""Checkpoints that reconstruct any sigma_rel from 0.04 to 0.2, from averages of 0.05 and 0.1, to 1 %."""
LONGEST = 1 / math.sqrt(12)
"""sigma_rel of the mean over all updates, gamma = 0."""


def exponent(sigma_rel: float) -> float:
    """Return gamma of a length: sigma_rel² = (gamma + 1) / ((gamma + 2)² (gamma + 3)).

    Raises ValueError unless 0 < sigma_rel < LONGEST.
    """
    if not 0 < sigma_rel < LONGEST:
        raise ValueError(
            f"sigma_rel={sigma_rel}: must be above 0 and below {LONGEST:.3f}, the length of the mean over all updates"
        )
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def ema_decay(decay: float, updates: jax.Array, ramp: float = 0.0) -> jax.Array:
    """Return the decay of an average after `updates` updates: 0 at first (a copy), then `decay`.

    With ramp > 0 the half-life is at most ramp · updates, so that a young average forgets the initial parameters.
    Reference: Karras et al. 2022, appendix F.6 (ramp = 0.05).
    """
    later = jnp.asarray(decay, jnp.float32)
    if ramp > 0:
        later = jnp.minimum(later, 0.5 ** (1 / (ramp * jnp.maximum(updates, 1))))
    return jnp.where(updates == 0, 0.0, later)


def step_size(name: str, updates: jax.Array, ramp: float = 0.0) -> jax.Array:
    """Return the share of the new parameters in the average of a name.

    updates: number before this one; at 0 the share is 1 (a copy). name: a decay, for 1 - `ema_decay`; or
    "power:SIGMA_REL", for 1 - (1 - 1/t)^(gamma + 1) with t = updates + 1.
    """
    if not name.startswith(KEPT):
        return 1 - ema_decay(float(name), updates, ramp)
    t = jnp.asarray(updates + 1, jnp.result_type(float))
    return -jnp.expm1((exponent(float(name.removeprefix(KEPT))) + 1) * jnp.log1p(-1 / t))


def initial_share(decay: float, updates: int, ramp: float = 0.0) -> float:
    """Return the share of initial weights in an average, the product of its decays."""
    if not ramp:
        return float(decay) ** max(0, updates - 1)
    return float(np.prod(np.minimum(decay, 0.5 ** (1 / (ramp * np.arange(1, updates))))))


def product(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the inner products, integrals over tau, of weights (gamma, t) of power-function averages.

    With t_a <= t_b: (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (t_a / t_b)^gamma_b / t_b.
    Arrays of any shapes that broadcast.
    """
    (gamma_a, t_a), (gamma_b, t_b) = a, b
    late = np.where(t_a <= t_b, gamma_b, gamma_a)
    ratio = np.minimum(t_a, t_b) / np.maximum(t_a, t_b)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * ratio**late / np.maximum(t_a, t_b)


def coefficients(kept: Sequence[tuple[float, int]], sigma_rel: float, updates: int) -> np.ndarray:
    """Return the coefficients of snapshots whose sum is nearest to the average of length `sigma_rel`, float64 [S].

    kept: sigma_rel and number of updates, at least 1, of each snapshot. updates: number of updates of the requested
    average. The coefficients add up to 1, so that what does not change in training is exact; the paper leaves that to
    the least squares. Raises ValueError for a sigma_rel out of range.
    """
    gamma = np.array([exponent(sigma) for sigma, _ in kept])
    t = np.array([number for _, number in kept]) / updates
    gram = product((gamma[:, None], t[:, None]), (gamma, t))
    wanted = product((gamma, t), (np.array(exponent(sigma_rel)), np.array(1.0)))
    one = np.ones((len(t), 1))
    system = np.block([[gram, one], [one.T, np.zeros((1, 1))]])
    found: np.ndarray = np.linalg.lstsq(system, np.append(wanted, 1), rcond=None)[0][:-1]
    return found


def sigma_of(name: str, prefix: str = ASKED, flag: str = "--ema") -> float:
    """Return sigma_rel of a name such as "posthoc:0.1". Raises ValueError for a name without a number in range."""
    try:
        sigma_rel = float(name.removeprefix(prefix))
        exponent(sigma_rel)
    except ValueError as error:
        raise ValueError(
            f"{flag}: {name!r} is not {prefix}SIGMA_REL, a number above 0 and below {LONGEST:.3f}. Use {prefix}0.1"
        ) from error
    return sigma_rel
