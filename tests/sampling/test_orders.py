"""Every sampler converges as fast as it is said to, on VP, VE, sub-VP and EDM, against truths that share no code."""

import numpy as np
import orders
import pytest

WITHOUT_NOISE = [
    ("ddim", {}, 1),
    ("ode_euler", {}, 1),
    ("ode_heun", {}, 2),
    ("edm", {}, 2),
    ("dpmpp_2m", {}, 2),
    ("dpmpp_3m", {}, 3),
    ("dpmpp_3m", {"second_difference": "half"}, 2),
    ("unipc", {"order": 2}, 3),
]


@pytest.mark.parametrize(("sampler", "options", "expected"), WITHOUT_NOISE)
def test_order_without_noise(sampler, options, expected, x64):
    found = {name: orders.order(orders.without_noise(name, sampler, **options)) for name in orders.SCHEDULES}
    assert all(abs(value - expected) <= 0.15 for value in found.values()), found


def test_unipc_of_three_points_comes_to_order_four(x64):
    """Its first steps, of lower order, still show at 80 steps."""
    for name in ("VP", "VE"):
        errors = orders.without_noise(name, "unipc", order=3)
        assert abs(np.log2(errors[-2] / errors[-1]) - 4) <= 0.15, errors


WITH_NOISE = [
    ("ancestral", {}, 0.85),
    ("ddim", {"eta": 0.5}, 0.85),
    ("euler_maruyama", {}, 0.85),
    ("reverse_diffusion", {}, 0.85),
    ("dpmpp_2m_sde", {}, 1.85),
]


@pytest.mark.parametrize(("sampler", "options", "least"), WITH_NOISE)
def test_order_of_mean_and_covariance(sampler, options, least, x64):
    found = {name: orders.order(orders.with_noise(name, sampler, **options)) for name in orders.SCHEDULES}
    assert all(value >= least for value in found.values()), found
