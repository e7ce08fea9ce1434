"""Exact entropies of the synthetic data sets.

Each function returns -H(x_0) and -H(x_1) in bits, before and after the first step of a chain: upper limits of the
log-likelihood of any model. For Gaussian diffusion x_1 = alpha x_0 + sigma noise; for binary data a share 1 - alpha² of
the bits is redrawn.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.embedded import swissroll_curve
from diffusion_jax.data.heartbeat import PERIOD, STEPS

POINTS = 1_000_000
AT_ONCE = 2000


def swissroll(noise: float, alpha: float, sigma: float, points: int = POINTS) -> dict[str, float]:
    """Return the negative entropies of the swiss roll, with standard errors.

    They are Monte Carlo means of the log2 density. noise: as in `embedded.toy2d`. The density is a Gaussian, averaged
    along the curve by Gauss-Legendre quadrature.
    """
    if noise == 0 and sigma == 0:
        return {"negative_entropy_x0_bits": math.inf, "negative_entropy_x1_bits": math.inf}
    nodes, weights = np.polynomial.legendre.leggauss(16)
    panels = 60
    share = ((np.arange(panels)[:, None] + (nodes + 1) / 2) / panels).ravel()
    weight = np.tile(weights / 2 / panels, panels)
    figures = {}
    for name, scale, added in (("x0", 1.0, 0.0), ("x1", alpha, sigma)):
        curve, std = swissroll_curve(share, noise)
        curve, var = scale * curve, (scale * std) ** 2 + added**2
        if var == 0:
            figures[f"negative_entropy_{name}_bits"] = math.inf
            continue
        rng = np.random.default_rng(0)
        at, _ = swissroll_curve(rng.random(points), noise)
        x = scale * at + var**0.5 * rng.standard_normal((points, 2))
        density = np.asarray(_mixture(*(jnp.asarray(array, jnp.float32) for array in (x, curve, weight)), var))
        bits = np.log2(density.astype(np.float64)) - math.log2(2 * math.pi * var)
        figures[f"negative_entropy_{name}_bits"] = float(bits.mean())
        figures[f"negative_entropy_{name}_stderr"] = float(bits.std() / points**0.5)
    return figures


@jax.jit
def _mixture(x: jax.Array, curve: jax.Array, weight: jax.Array, var: jax.Array) -> jax.Array:
    """Unnormalised mixture density, [N].

    sum_j w_j exp(-|x - c_j|²/(2 var)) for each x [N,2]; N is a multiple of AT_ONCE.
    """

    def some(x: jax.Array) -> jax.Array:
        distance = jnp.square(x[:, :1] - curve[:, 0]) + jnp.square(x[:, 1:] - curve[:, 1])
        return jnp.matmul(jnp.exp(distance / (-2 * var)), weight, precision="highest")

    return jax.lax.map(some, x.reshape(-1, AT_ONCE, 2)).ravel()


def heartbeat(rate: float, alpha: float) -> dict[str, float]:
    """Return the exact negative entropies of the binary heartbeat, by enumeration.

    The probability of a sequence depends only on the number of ones at the places of each phase.
    """
    each = STEPS // PERIOD
    one, zero = alpha**2 + (1 - alpha**2) * rate, (1 - alpha**2) * rate
    counts = np.array(list(itertools.product(range(each + 1), repeat=PERIOD)))
    many = np.array([math.prod(math.comb(each, n) for n in row) for row in counts])

    def chance(p: float) -> np.ndarray:
        return p**counts * (1 - p) ** (each - counts)

    beats, rests = chance(one), chance(zero)
    probability = sum(beats[:, i] * np.delete(rests, i, axis=1).prod(1) for i in range(PERIOD)) / PERIOD
    seen = probability > 0
    bits = float((many[seen] * probability[seen]) @ np.log2(probability[seen]))
    return {"negative_entropy_x0_bits": -math.log2(PERIOD), "negative_entropy_x1_bits": bits}
