"""Entropies against other ways to the same numbers."""

import itertools
import math

import numpy as np
import pytest

from diffusion_jax.data import entropies
from diffusion_jax.data.embedded import swissroll_curve


def test_heartbeat_entropy_against_brute_force():
    """The same enumeration over every sequence, of two of the four beats; and a chain's known ceiling."""
    alpha, rate, period, steps = 0.9**0.5, 0.2, 5, 10
    one, zero = 0.9 + 0.1 * rate, 0.1 * rate
    total = 0.0
    for bits in itertools.product((0, 1), repeat=steps):
        p = 0.0
        for phase in range(period):
            rates = np.where(np.arange(steps) % period == phase, one, zero)
            p += np.where(bits, rates, 1 - rates).prod() / period
        total += p * math.log2(p)
    before = entropies.STEPS
    try:
        entropies.STEPS = steps
        found = entropies.heartbeat(rate, alpha)
    finally:
        entropies.STEPS = before
    assert found["negative_entropy_x1_bits"] == pytest.approx(total, rel=1e-12)
    assert entropies.heartbeat(0.2, 1.0)["negative_entropy_x1_bits"] == pytest.approx(-math.log2(5))
    assert entropies.heartbeat(0.2, (1 - 1 / 2000) ** 0.5)["negative_entropy_x1_bits"] == pytest.approx(
        -2.366, abs=5e-4
    )


def test_swiss_roll_density_on_a_grid():
    """The same density summed over a fine grid of the plane: it is one, and gives the entropy without any points."""
    found = entropies.swissroll(1.0, 0.8, 0.2, points=20_000)
    for name, scale, added in (("x0", 1.0, 0.0), ("x1", 0.8, 0.2)):
        curve, std = swissroll_curve((np.arange(600) + 0.5) / 600, 1.0)
        curve, var = scale * curve, (scale * std) ** 2 + added**2
        axis = np.linspace(-4, 4, 121)
        x = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        density = np.concatenate(
            [
                np.exp(-((part[:, None] - curve) ** 2).sum(-1) / (2 * var)).mean(1) / (2 * np.pi * var)
                for part in np.array_split(x, 10)
            ]
        )
        cell = (axis[1] - axis[0]) ** 2
        assert density.sum() * cell == pytest.approx(1, abs=1e-4)
        expected = (density * np.log2(np.maximum(density, 1e-300))).sum() * cell
        error = found[f"negative_entropy_{name}_stderr"]
        assert found[f"negative_entropy_{name}_bits"] == pytest.approx(expected, abs=4 * error + 1e-3)
