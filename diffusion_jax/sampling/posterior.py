"""Posterior sampling: draws of x0 given an observation y.

The reverse kernel is multiplied by the likelihood r of y:

    p~(x_s | x_t)  ∝  p(x_s | x_t) r_s(x_s),        r(x0) = N(y; x0, noise²) on the elements that were observed,

Reference: Sohl-Dickstein et al. 2015, section 2.5. A `Rule` defines r_s at the levels in between. The kernel stays a
Gaussian of independent elements, so `condition` wraps a `Reverse`, for every sampler that draws from the kernel:

- `constant`, r_s = r: biased. Each step multiplies by r, and so does the normaliser of the one before: on N(0, 1) data
  and with small steps the chain tends to N(0, 1) r², not to N(0, 1) r. Without noise (inpainting) it pins the elements
  observed to y at all levels.
- `power`, r_s = r^(1-s), which is r^((T-t)/T) of the paper: its influence grows gradually; biased too.
- `noise_aware`, r_s(x_s) = E[r(x0) | x_s]: exact, in closed form for independent Gaussian elements.
- `renoise`, without r: the observed elements are drawn from q(x_s | x0 = y) at every step. Reference: Song et al. 2021,
  appendix I.2; Lugmayr et al. 2022 (RePaint), whose resampling is `resample`.

The observation is given by a mask over the elements. A colour image observed in grey, or an image observed at low
resolution, is a mask in rotated coordinates, see `sampling.degradation`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, expand, fold_all, normal, split_all
from diffusion_jax.process.gaussian import GaussianCoefficients, step_coefficients


class Observed(NamedTuple):
    """Observation of x0: y = x0 + noise on the elements of a mask."""

    y: Array
    """[B,*D]; arbitrary outside of the mask."""
    mask: Array
    """bool [*D] or [B,*D]."""
    noise: Array | float
    """Standard deviation; 0 for an exact observation."""


Gaussian = tuple[Array, Array]
"""Independent Gaussian elements: (mean [B,*D], log_var)."""


Rule = Callable[[Level, Gaussian, Observed], Gaussian]
"""Distribution of x at a level [B] given y: (level, distribution without y, observed) -> distribution."""


def constant() -> Rule:
    """Rule r_s = r. Biased: on N(0, 1) data it tends to N(0, 1) r².

    Reference: Sohl-Dickstein et al. 2015, section 2.5.
    """
    return lambda level, law, observed: times(law, observed, 1.0, 0.0, jnp.square(observed.noise))


def power() -> Rule:
    """Rule r_s(x) = r(x)^(1-s), r^((T-t)/T) on a chain. Reference: Sohl-Dickstein et al. 2015, section 2.5."""

    def rule(level: Level, law: Gaussian, observed: Observed) -> Gaussian:
        power = expand(1 - jnp.maximum(level.t, 0), observed.y)
        var = jnp.where(power > 0, jnp.square(observed.noise) / jnp.where(power > 0, power, 1), jnp.inf)
        return times(law, observed, 1.0, 0.0, var)

    return rule


def noise_aware(mean: Any, var: Any) -> Rule:
    """Rule r_s(x_s) = E[r(x0) | x_s] for independent elements x0 ~ N(mean, var), var > 0.

    mean and var are [*D] or numbers. x0 given x_s is N(m, v) with gain = alpha var / (alpha² var + sigma²),
    m = mean + gain (x_s - alpha mean) and v = sigma² var / (alpha² var + sigma²), hence r_s(x_s) = N(y; m, v + noise²).
    Exact for such data: the samples are from the posterior. Without noise the kernel becomes q(x_s | x_t, x0 = y).
    """

    def rule(level: Level, law: Gaussian, observed: Observed) -> Gaussian:
        alpha, sigma = expand(level.alpha, observed.y), expand(level.sigma, observed.y)
        m, v = (jnp.asarray(value, observed.y.dtype) for value in (mean, var))
        marginal = alpha**2 * v + sigma**2
        gain = alpha * v / marginal
        return times(law, observed, gain, m - gain * alpha * m, sigma**2 * v / marginal + jnp.square(observed.noise))

    return rule


def renoise() -> Rule:
    """Rule with q(x_s | x0 = y) = N(alpha y, sigma²) in place of the kernel, for observations without noise.

    Reference: Song et al. 2021, appendix I.2; Lugmayr et al. 2022, eq. 8a.
    """

    def rule(level: Level, law: Gaussian, observed: Observed) -> Gaussian:
        mean, log_var = law
        return (
            jnp.where(observed.mask, expand(level.alpha, observed.y) * observed.y, mean),
            jnp.where(observed.mask, 2 * expand(level.log_sigma, observed.y), log_var),
        )

    return rule


RULES: dict[str, Callable[..., Rule]] = {
    "constant": constant,
    "power": power,
    "noise_aware": noise_aware,
    "renoise": renoise,
}


def times(law: Gaussian, observed: Observed, gain: Any, offset: Any, var: Any) -> Gaussian:
    """Return a Gaussian times N(y; gain x + offset, var) on the observed elements, normalised.

    var may be 0 or infinite. With V the variance before and share = gain V / (gain² V + var): mean + share (y - gain
    mean - offset), and V var / (gain² V + var).
    """
    mean, log_var = law
    before = jnp.exp(log_var)
    total = gain**2 * before + var
    moved = observed.mask & (total > 0) & jnp.isfinite(total)
    total = jnp.where(moved, total, 1)
    share = jnp.where(moved, jnp.where(var == 0, 1 / gain, gain * before / total), 0)
    return (
        mean + share * (observed.y - gain * mean - offset),
        log_var + jnp.where(moved, jnp.log(var) - jnp.log(total), 0),
    )


def condition(reverse: Reverse, rule: Rule, observed: Observed) -> Reverse:
    """Return the reverse kernel p(x_s | x_t) given the observation."""

    def conditioned(row: GaussianCoefficients, prediction: Any, x_t: Array) -> Gaussian:
        return rule(row.to, reverse(row, prediction, x_t), observed)

    return conditioned


def start(rule: Rule, observed: Observed, at: Level, x: Array) -> Array:
    """Turn x [B,*D], drawn from the prior, into a draw given the observation.

    The prior is N(0, alpha² + sigma²) at t = 1.
    """
    scale = expand(jnp.hypot(at.alpha, at.sigma), x)
    mean, log_var = rule(at, (jnp.zeros_like(x), jnp.broadcast_to(2 * jnp.log(scale), x.shape)), observed)
    return mean + jnp.exp(0.5 * log_var) * x / scale


def resample(
    walk: Callable[..., Array], rows: GaussianCoefficients, x: Array, keys: Array, length: int = 10, repeats: int = 10
) -> Array:
    """Take the N steps of a grid in stretches, with repeats.

    Each stretch is taken `repeats` times, after adding noise back. This makes unobserved elements consistent with those
    observed. N - N % length steps are repeated, the first ones are taken once. `repeats` times the network calls.

    Args:
        walk: `walk(x, keys, rows, first) -> x` takes the steps of a part of the grid, the first of them number `first`.
        rows: step coefficients [N].
        x: [B,*D] at t = 1.
        keys: [B].
        length, repeats: of the stretches.

    Reference: Lugmayr et al. 2022, section 4.2 (jump length 10, 10 resamplings).
    """
    size = len(rows.at.t)
    rest = size % length
    if rest:
        x = walk(x, keys, jax.tree.map(lambda field: field[:rest], rows), 0)
    stretches = jax.tree.map(lambda field: jnp.asarray(field, x.dtype)[rest:].reshape(-1, length), rows)

    def stretch(x: Array, inputs: tuple[Array, GaussianCoefficients]) -> tuple[Array, None]:
        first, part = inputs
        begin, end = (jax.tree.map(lambda field, i=i: field[i], level) for level, i in ((part.at, 0), (part.to, -1)))
        alpha = jnp.exp(begin.log_alpha - end.log_alpha)
        sigma = jnp.exp(0.5 * step_coefficients(begin, end).log_var_large)

        def again(i: Array, x: Array) -> Array:
            own = fold_all(keys, size + i)
            key_back, key_walk = split_all(own)
            key_back = fold_all(key_back, first)
            return walk(alpha * x + sigma * normal(key_back, x.shape[1:], x.dtype), key_walk, part, first)

        return jax.lax.fori_loop(1, repeats, again, walk(x, keys, part, first)), None

    x, _ = jax.lax.scan(stretch, x, (rest + jnp.arange(0, size - rest, length), stretches))
    return x
