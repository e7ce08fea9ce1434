"""Noise schedules: factories of functions t -> (log alpha, log sigma) for t in [0, 1].

    chain           num_steps betas, x_k = sqrt(1 - beta_k) x_{k-1} + sqrt(beta_k) noise, k = 1..T, t = k/T
    closed forms    vp, subvp, linear_logsnr, ve, edm, rectified_flow, polynomial

Between the steps of a chain log alpha is interpolated linearly (a constant rate beta), so that a chain is also a
schedule in continuous time. `geometric` is a chain of noise levels that keeps the signal, alpha = 1.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.base import Array, Schedule


def chain(betas: np.ndarray) -> Schedule:
    """Variance-preserving chain with rates `betas` [T], each in (0, 1), the last one also 1.

    alpha(k/T)² = prod_{i<=k} (1 - beta_i), sigma² = 1 - alpha².
    Reference: Ho et al. 2020, eq. 4. Raises ValueError for other betas.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size:
        raise ValueError(f"schedule: betas must be a list of rates, got an array of shape {betas.shape}")
    if not np.all((betas > 0) & (betas <= 1)) or np.any(betas[:-1] == 1):
        raise ValueError(
            f"schedule: betas must lie in (0, 1), the last one also at 1, got {betas.size} from {betas.min()} to "
            f"{betas.max()}"
        )
    with np.errstate(divide="ignore"):
        table = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    last_step_destroys_all = bool(np.isneginf(table[-1]))
    steps = betas.size

    def schedule(t: Array) -> tuple[Array, Array]:
        u = t * steps
        k = jnp.clip(jnp.floor(u), 0, steps - 1)
        fraction = u - k
        k = k.astype(jnp.int32)
        slopes = jnp.asarray(np.append(np.diff(table[:-1]), 0.0) if last_step_destroys_all else np.diff(table), t.dtype)
        log_alpha = jnp.asarray(table[:-1], t.dtype)[k] + slopes[k] * fraction
        if last_step_destroys_all:  # linear in alpha² there, since log alpha has no finite end
            log_alpha += jnp.where(k == steps - 1, 0.5 * jnp.log1p(-fraction), 0)
        return log_alpha, _log_sigma(log_alpha)

    return schedule


def _log_sigma(log_alpha: Array) -> Array:
    """Return log sqrt(1 - alpha²), by expm1: sqrt(1 - exp) is 0.6 % off at t = 1e-5 in float32."""
    return 0.5 * jnp.log(-jnp.expm1(2 * log_alpha))


def linear(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Linear betas. Reference: Ho et al. 2020, section 4."""
    return chain(np.linspace(beta_start, beta_end, num_steps))


def quad(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Quadratic betas: sqrt(beta) rises linearly. Reference: the public code of Ho et al. 2020."""
    return chain(np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2)


def const(num_steps: int, beta_end: float = 0.02) -> Schedule:
    """Constant betas, equal to beta_end. Reference: the public code of Ho et al. 2020."""
    return chain(np.full(num_steps, beta_end))


def warmup(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02, fraction: float = 0.1) -> Schedule:
    """Linear betas over the first `fraction` of the steps, then constant betas, beta_end.

    fraction = 0.1 and 0.5 are "warmup10" and "warmup50". Reference: the public code of Ho et al. 2020.
    """
    betas = np.full(num_steps, beta_end)
    rise = int(num_steps * fraction)
    betas[:rise] = np.linspace(beta_start, beta_end, rise)
    return chain(betas)


def harmonic(num_steps: int) -> Schedule:
    """Harmonic betas, 1 / (T - k + 1): alpha(k/T)² = 1 - k/T, 0 at t = 1.

    Reference: Sohl-Dickstein et al. 2015, section 2.4.1 ("jsd" in the code of Ho et al. 2020).
    """
    return chain(1 / np.linspace(num_steps, 1, num_steps))


def dpm2015(num_steps: int, first_beta: float = 1e-3) -> Schedule:
    """Harmonic betas that leave 1/T of the signal at t = 1.

    beta_1 = first_beta, the later betas are near 1/linspace(T, 2, T). The initial rates of `learned.betas`. Raises
    ValueError for fewer than two steps.
    Reference: the public code of Sohl-Dickstein et al. 2015, whose beta_1 is first_beta + 1/T.
    """
    offsets = dpm2015_logits(num_steps)
    return chain(np.append(first_beta, dpm2015_rates(1 / (1 + np.exp(-offsets)))))


def dpm2015_logits(num_steps: int) -> np.ndarray:
    """Return the logits [T - 1] of 1/linspace(T, 2, T) without the first.

    Raises ValueError for fewer than two steps.
    """
    if num_steps < 2:
        raise ValueError(f"process.num_steps={num_steps}: a chain whose rates are learned needs at least 2 steps")
    shares = 1 / np.linspace(num_steps, 2, num_steps)[1:]
    return np.log(shares) - np.log1p(-shares)


def dpm2015_rates(share: Any) -> Any:
    """Return betas in [1e-6, 1 - 1e-5] from shares in [0, 1], on which they depend linearly."""
    return 1e-6 + share * (1 - 1e-6 - 1e-5)


def sigmoid(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02, reach: float = 6.0) -> Schedule:
    """Sigmoid betas between beta_start and beta_end, the sigmoid's argument from -reach to reach.

    Reference: Xu et al. 2022 (GeoDiff).
    """
    return chain(beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-reach, reach, num_steps))))


def cosine(num_steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """Cosine schedule: alpha(t)² = f(t)/f(0), with betas at most max_beta.

    f(t) = cos²(pi/2 (t + offset)/(1 + offset)). Reference: Nichol and Dhariwal 2021, eq. 17.
    """
    t = np.arange(num_steps + 1) / num_steps
    f = np.cos(np.pi / 2 * (t + offset) / (1 + offset)) ** 2
    return chain(np.minimum(1 - f[1:] / f[:-1], max_beta))


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """Variance-preserving SDE schedule: log alpha = -t²/4 (beta_max - beta_min) - t/2 beta_min.

    Reference: Song et al. 2021, eq. 33.
    """
    return lambda t: ((la := _vp_log_alpha(t, beta_min, beta_max)), _log_sigma(la))


def subvp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """Sub-variance-preserving SDE schedule: alpha as in `vp`, sigma = 1 - alpha².

    Reference: Song et al. 2021, eq. 29.
    """
    return lambda t: ((la := _vp_log_alpha(t, beta_min, beta_max)), 2 * _log_sigma(la))


def _vp_log_alpha(t: Array, beta_min: float, beta_max: float) -> Array:
    return -0.25 * t**2 * (beta_max - beta_min) - 0.5 * t * beta_min


def linear_logsnr(gamma_min: float = -13.3, gamma_max: float = 5.0) -> Schedule:
    """Linear log-SNR schedule: gamma = log(sigma²/alpha²) linear in t.

    alpha² = sigmoid(-gamma), sigma² = sigmoid(gamma). The bound then weights the errors of eps equally at all t.
    Reference: Kingma et al. 2021, section 4 and appendix.
    """

    def schedule(t: Array) -> tuple[Array, Array]:
        gamma = gamma_min + t * (gamma_max - gamma_min)
        return -0.5 * jnp.logaddexp(0, gamma), -0.5 * jnp.logaddexp(0, -gamma)

    return schedule


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """Variance-exploding SDE schedule: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t.

    Reference: Song et al. 2021, eq. 30.
    """
    low, high = np.log(sigma_min), np.log(sigma_max)
    return lambda t: (jnp.zeros_like(t), low + t * (high - low))


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """EDM schedule: alpha = 1 and sigma^(1/rho) linear in t.

    A uniform grid in t is then the time grid of the paper. Reference: Karras et al. 2022, eq. 5.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return lambda t: (jnp.zeros_like(t), rho * jnp.log(low + t * (high - low)))


def rectified_flow(shift: float = 1.0) -> Schedule:
    """Straight path of rectified flow: alpha = 1 - u, sigma = u with u = shift t / (1 + (shift - 1) t).

    Nothing of x0 is left at t = 1. A shift above 1 moves the times of training and sampling to more noise: sqrt(m/n)
    gives images of m pixels the levels that suit images of n pixels. Raises ValueError unless shift > 0.
    Reference: Liu et al. 2023 (rectified flow), eq. 1; for the shift Esser et al. 2024, section 5.3.2.
    """
    if not shift > 0:
        raise ValueError(f"schedule.rectified_flow.shift={shift}: must be above 0. Use 1 for no shift")

    def schedule(t: Array) -> tuple[Array, Array]:
        log_stretch = jnp.log1p((shift - 1) * t)
        return jnp.log1p(-t) - log_stretch, jnp.log(shift * t) - log_stretch

    return schedule


def polynomial(power: float = 1.0) -> Schedule:
    """Polynomial masking schedule: alpha² = 1 - t^power, sigma² = t^power.

    sigma² is the share of the values that noise replaces. Nothing of x0 is left at t = 1. Raises ValueError unless
    power > 0.
    Reference: Shi et al. 2024 (MD4), table of masking schedules.
    """
    if not power > 0:
        raise ValueError(f"schedule.polynomial.power={power}: must be above 0. Use 1 for a linear schedule")
    return lambda t: (0.5 * jnp.log1p(-(t**power)), 0.5 * power * jnp.log(t))


def geometric(num_steps: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """Geometric noise levels with alpha = 1, from sigma_min at k = 1 to sigma_max at k = T.

    sigma = 0 at k = 0. Between levels log sigma is interpolated linearly, below the first level sigma. Raises
    ValueError for fewer than two levels. Reference: Song and Ermon 2019, section 3.
    """
    if num_steps < 2:
        raise ValueError(f"process.num_steps={num_steps}: levels from sigma_min to sigma_max are at least 2")
    low, factor = np.log(sigma_min), np.log(sigma_max / sigma_min) / (num_steps - 1)

    def schedule(t: Array) -> tuple[Array, Array]:
        k = t * num_steps
        return jnp.zeros_like(t), low + factor * jnp.maximum(k - 1, 0) + jnp.log(jnp.minimum(k, 1))

    return schedule


CHAINS: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "quad": quad,
    "const": const,
    "warmup": warmup,
    "harmonic": harmonic,
    "dpm2015": dpm2015,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "geometric": geometric,
}
"""Chains by name: factories whose first parameter is the number of steps."""

CONTINUOUS: dict[str, Callable[..., Schedule]] = {
    "vp": vp,
    "subvp": subvp,
    "linear_logsnr": linear_logsnr,
    "ve": ve,
    "edm": edm,
    "rectified_flow": rectified_flow,
    "polynomial": polynomial,
}
"""Schedules in closed form by name."""
