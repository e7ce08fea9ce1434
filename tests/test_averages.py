"""Averages: decays and their ramp, power functions, and lengths reconstructed from snapshots of two of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import averages
from diffusion_jax.training import checkpoints, state

KEPT = ("power:0.05", "power:0.1")


def tracked(name, path):
    """The average of this name after each update, [T,D], of parameters [T,D]."""

    def update(average, inputs):
        n, now = inputs
        average = average + averages.step_size(name, n) * (now - average)
        return average, average

    return np.asarray(jax.lax.scan(update, jnp.zeros(path.shape[1]), (jnp.arange(len(path)), path))[1])


@pytest.mark.parametrize("ramp", [0.0, 0.05, 1.0])
def test_share_of_initial_weights_is_the_product_of_the_decays(ramp):
    """The first decay is 0: the average starts as a copy of the weights after the first update."""
    with jax.enable_x64(True):
        decays = [float(averages.ema_decay(0.9, jnp.array(n), ramp)) for n in range(1, 40)]
    for updates in (1, 2, 40):
        np.testing.assert_allclose(
            averages.initial_share(0.9, updates, ramp), np.prod(decays[: updates - 1]), rtol=1e-5
        )
    assert averages.initial_share(0.9999, 1500, 0.05) < 1e-30 < 0.8 < averages.initial_share(0.9999, 1500)


def test_ramp_bounds_the_half_life_of_a_young_average():
    assert float(averages.ema_decay(0.9999, jnp.array(0), 0.05)) == 0
    assert float(averages.ema_decay(0.9999, jnp.array(100), 0.05)) == pytest.approx(0.5 ** (1 / 5), rel=1e-6)
    assert float(averages.ema_decay(0.9999, jnp.array(10**6), 0.05)) == pytest.approx(0.9999, rel=1e-6)
    assert float(averages.ema_decay(0.9999, jnp.array(1), 0.0)) == pytest.approx(0.9999, rel=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.2])
def test_weights_have_the_requested_length(sigma_rel, x64):
    """With unit vectors as parameters, the average is its own weights over time."""
    t = 1000
    weights = tracked(f"power:{sigma_rel}", jnp.eye(t))[-1]
    tau, gamma = np.arange(1, t + 1), averages.exponent(sigma_rel)
    np.testing.assert_allclose(weights, np.diff(np.arange(t + 1.0) ** (gamma + 1)) / t ** (gamma + 1), atol=1e-13)
    mean = weights @ tau
    assert np.sqrt(weights @ (tau - mean) ** 2) / t == pytest.approx(sigma_rel, rel=1e-3)  # 1 / t


def test_inner_products_are_integrals():
    tau = (np.arange(200_000) + 0.5) / 200_000
    for a, b in (((6.9, 1.0), (16.9, 0.4)), ((16.9, 0.4), (6.9, 1.0)), ((2.0, 0.7), (2.0, 0.7))):
        both = [np.where(tau <= t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0) for gamma, t in (a, b)]
        assert averages.product(a, b) == pytest.approx(np.mean(both[0] * both[1]), rel=1e-3)


def test_reconstruction_of_a_random_walk_is_within_a_hundredth(x64):
    """The hundredth is that of the paper's purpose; the error is that of 8 snapshots, no rounding."""
    walk = jnp.cumsum(jax.random.normal(jax.random.key(0), (1024, 64)), 0)
    kept = {name: tracked(name, walk) for name in KEPT}
    snapshots = [(float(name.removeprefix("power:")), t) for name in KEPT for t in range(128, 1025, 128)]
    values = np.stack([kept[f"power:{sigma_rel}"][t - 1] for sigma_rel, t in snapshots])
    for sigma_rel in (0.04, 0.075, 0.15, 0.2):
        found = averages.coefficients(snapshots, sigma_rel, 1024)
        direct = tracked(f"power:{sigma_rel}", walk)[-1]
        assert np.linalg.norm(found @ values - direct) < 0.01 * np.linalg.norm(direct)
        assert found.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(averages.coefficients(snapshots, 0.1, 1024), np.eye(16)[15], atol=1e-6)


def test_weights_of_a_length_come_from_the_checkpoints_up_to_a_step(tmp_path):
    """Updates that were skipped do not count."""
    params = {"net": {"w": jnp.arange(3.0)}, "schedule": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averages, "ENOUGH", 0)
        manager = checkpoints.open_manager(tmp_path, keep=9)
        values = {}
        for n in (2, 3, 5):
            values[n] = {name: n * float(name[-4:].strip(":")) for name in KEPT}
            ema = {name: jax.tree.map(lambda x, d=d: x * d, params) for name, d in values[n].items()}
            kept = state.TrainState(jnp.int32(n), params, ema, None, None, jnp.array([1, 0]))
            checkpoints.save(manager, n, kept, {}, None)
        manager.close()
        for last in (3, 5):
            weights = checkpoints.restore_weights(tmp_path, last, "posthoc:0.07")
            snapshots = [(float(name[6:]), n - 1) for n in values if n <= last for name in KEPT]
            factor = averages.coefficients(snapshots, 0.07, last - 1) @ [
                values[n][name] for n in values if n <= last for name in KEPT
            ]
            assert weights["net"]["w"].dtype == np.float32
            np.testing.assert_allclose(weights["net"]["w"], factor * np.arange(3.0), rtol=1e-5)
    for name in ("posthoc:", "posthoc:0", "posthoc:0.3", "posthoc:x"):
        with pytest.raises(ValueError, match=name):
            checkpoints.restore_weights(tmp_path, ema=name)


def test_a_run_without_two_such_averages_is_an_error(tmp_path):
    manager = checkpoints.open_manager(tmp_path)
    params = {"net": {"w": jnp.ones(2)}, "schedule": {}}
    kept = state.TrainState(jnp.int32(1), params, {"power:0.1": params}, None, None, jnp.zeros(2, jnp.int32))
    checkpoints.save(manager, 1, kept, {}, None)
    manager.close()
    with pytest.raises(ValueError, match=r"posthoc:0\.1.*ema\.decays"):
        checkpoints.restore_weights(tmp_path, ema="posthoc:0.1")
