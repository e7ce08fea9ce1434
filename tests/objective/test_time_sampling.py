"""Time samplers: distribution, values on a chain, and dependence on the place in the global batch alone."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective import time_sampling
from diffusion_jax.process import schedules

INDEX = jnp.arange(4096)


@pytest.mark.parametrize("name", ["uniform", "low_discrepancy"])
def test_chain_times_cover_one_to_num_steps_evenly(name):
    t, weight = time_sampling.TIME_SAMPLERS[name](16).sample(None, jax.random.key(0), INDEX, 4096)
    k = np.asarray(t * 16)
    np.testing.assert_array_equal(k, np.round(k))
    counts = np.bincount(k.astype(int), minlength=17)
    assert counts[0] == 0 and len(counts) == 17
    assert np.all(np.abs(counts[1:] - 256) < 5 * 16)
    np.testing.assert_array_equal(weight, 1)


@pytest.mark.parametrize("name", ["uniform", "low_discrepancy"])
def test_continuous_times_are_uniform_above_min_t(name):
    t, _ = time_sampling.TIME_SAMPLERS[name](0, 0.1).sample(None, jax.random.key(1), INDEX, 4096)
    assert float(t.min()) >= 0.1 and float(t.max()) <= 1
    assert float(t.mean()) == pytest.approx(0.55, abs=5 * 0.9 / (12 * 4096) ** 0.5)  # 5 standard errors


@pytest.mark.parametrize("name", ["uniform", "low_discrepancy"])
def test_part_of_the_batch_has_the_times_of_the_whole(name):
    sample_times = time_sampling.TIME_SAMPLERS[name](1000).sample
    whole, _ = sample_times(None, jax.random.key(2), jnp.arange(32), 32)
    share, _ = sample_times(None, jax.random.key(2), jnp.arange(8, 16), 32)
    np.testing.assert_array_equal(share, whole[8:16])


def test_low_discrepancy_puts_one_time_into_every_interval():
    t, _ = time_sampling.low_discrepancy(0).sample(None, jax.random.key(3), jnp.arange(64), 64)
    np.testing.assert_array_equal(np.sort(np.floor(np.asarray(t) * 64)), np.arange(64))
    t, _ = time_sampling.low_discrepancy(64).sample(None, jax.random.key(4), jnp.arange(64), 64)
    np.testing.assert_array_equal(np.sort(np.asarray(t)) * 64, np.arange(1, 65))


def test_only_importance_has_a_history():
    for name in ("uniform", "low_discrepancy"):
        sampler = time_sampling.TIME_SAMPLERS[name](16)
        assert sampler.init() is None and sampler.update(None, jnp.ones(2), jnp.ones(2)) is None


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_history_is_the_last_losses_of_each_step(batch):
    """Compare with deques filled one loss after the other; a batch may hold a step more often than the window."""
    steps, window = 5, 4
    sampler = time_sampling.importance(steps, window=window)
    history, expected = sampler.init(), [collections.deque(maxlen=window) for _ in range(steps)]
    rng = np.random.default_rng(0)
    counts = np.zeros(steps, int)
    for _ in range(6):
        k, losses = rng.integers(1, steps + 1, batch), rng.exponential(size=batch).astype(np.float32)
        history = jax.jit(sampler.update)(history, jnp.asarray(k / steps), jnp.asarray(losses))
        for i, loss in zip(k - 1, losses, strict=True):
            expected[i].append(loss)
            counts[i] += 1
    np.testing.assert_array_equal(history["count"], counts)
    for kept, deque in zip(np.asarray(history["losses"]), expected, strict=True):
        np.testing.assert_array_equal(np.sort(kept[kept > 0]), np.sort(deque))


def test_importance_is_uniform_until_every_step_has_its_losses():
    sampler = time_sampling.importance(4, window=2)
    history = {"losses": jnp.array([[1.0, 1], [2, 2], [3, 3], [4, 0]]), "count": jnp.array([2, 9, 2, 1])}
    t, weight = sampler.sample(history, jax.random.key(0), INDEX, 4096)
    np.testing.assert_allclose(weight, 1, rtol=1e-6)
    assert np.all(np.abs(np.bincount(np.round(t * 4).astype(int))[1:] - 1024) < 5 * 28)


def test_importance_samples_by_the_size_of_the_losses_and_is_unbiased():
    """p(k) ~ sqrt(mean of squares), with a uniform share; weight · p is uniform, so that means are unbiased."""
    sampler = time_sampling.importance(3, window=2, uniform_share=0.1)
    losses = jnp.array([[3.0, 4.0], [0.0, 1.0], [10.0, 0.0]])
    history = {"losses": losses, "count": jnp.array([2, 2, 5])}
    index = jnp.arange(200_000)
    t, weight = sampler.sample(history, jax.random.key(0), index, len(index))
    size = np.sqrt(np.mean(np.asarray(losses) ** 2, 1))
    p = 0.9 * size / size.sum() + 0.1 / 3
    k = np.round(np.asarray(t) * 3).astype(int)
    standard_errors = np.sqrt(p * (1 - p) / len(index))
    np.testing.assert_array_less(np.abs(np.bincount(k)[1:] / len(index) - p), 5 * standard_errors)
    np.testing.assert_allclose(weight, (1 / (3 * p))[k - 1], rtol=1e-5)
    values = np.array([5.0, -2.0, 1.0])
    weighted = np.asarray(weight) * values[k - 1]
    assert abs(weighted.mean() - values.mean()) < 5 * weighted.std() / len(index) ** 0.5


def test_importance_needs_a_chain():
    with pytest.raises(ValueError, match=r"process\.num_steps"):
        time_sampling.importance(0)


@pytest.mark.parametrize("name", ["edm", "ve", "vp"])
def test_log_normal_is_the_distribution_of_sigma_over_alpha(name):
    schedule = schedules.CONTINUOUS[name]()
    sampler = time_sampling.log_normal(schedule, mean=-1.0, std=0.5)
    t, weight = sampler.sample(None, jax.random.key(0), INDEX, 4096)
    log_alpha, log_sigma = schedule(t)
    value = np.asarray(log_sigma - log_alpha)
    assert abs(value.mean() + 1.0) < 5 * 0.5 / 64 and abs(value.std() - 0.5) < 5 * 0.5 / 90
    np.testing.assert_array_equal(weight, 1)
    share, _ = sampler.sample(None, jax.random.key(0), jnp.arange(8, 16), 4096)
    np.testing.assert_allclose(share, t[8:16], rtol=1e-5)
    late, _ = time_sampling.log_normal(schedule, min_t=0.9).sample(None, jax.random.key(0), INDEX, 4096)
    assert float(late.min()) == pytest.approx(0.9, rel=1e-5)


def test_logit_normal_is_normal_after_the_logit():
    sampler = time_sampling.logit_normal(mean=0.5, scale=0.8)
    t, weight = sampler.sample(None, jax.random.key(0), INDEX, 4096)
    value = np.log(np.asarray(t, np.float64) / (1 - np.asarray(t, np.float64)))
    assert abs(value.mean() - 0.5) < 5 * 0.8 / 64 and abs(value.std() - 0.8) < 5 * 0.8 / 90
    np.testing.assert_array_equal(weight, 1)
    share, _ = sampler.sample(None, jax.random.key(0), jnp.arange(8, 16), 4096)
    np.testing.assert_allclose(share, t[8:16], rtol=1e-5)
    k, _ = time_sampling.logit_normal(10).sample(None, jax.random.key(0), INDEX, 4096)
    np.testing.assert_array_equal(np.unique(np.round(np.asarray(k) * 10)), np.arange(1, 11))
    with pytest.raises(ValueError, match=r"times\.logit_normal\.scale"):
        time_sampling.logit_normal(scale=0.0)
