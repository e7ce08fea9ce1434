"""Times: their law, their chain values, and that they depend on the place in the global batch alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.objective import time_sampling

INDEX = jnp.arange(4096)


@pytest.mark.parametrize("name", time_sampling.TIME_SAMPLERS)
def test_chain_times_cover_one_to_num_steps_evenly(name):
    t, weight = time_sampling.TIME_SAMPLERS[name](16)(None, jax.random.key(0), INDEX, 4096)
    k = np.asarray(t * 16)
    np.testing.assert_array_equal(k, np.round(k))
    counts = np.bincount(k.astype(int), minlength=17)
    assert counts[0] == 0 and len(counts) == 17
    assert np.all(np.abs(counts[1:] - 256) < 5 * 16)
    np.testing.assert_array_equal(weight, 1)


@pytest.mark.parametrize("name", time_sampling.TIME_SAMPLERS)
def test_continuous_times_are_uniform_above_min_t(name):
    t, _ = time_sampling.TIME_SAMPLERS[name](0, 0.1)(None, jax.random.key(1), INDEX, 4096)
    assert float(t.min()) >= 0.1 and float(t.max()) <= 1
    assert float(t.mean()) == pytest.approx(0.55, abs=0.02)


@pytest.mark.parametrize("name", time_sampling.TIME_SAMPLERS)
def test_a_share_of_the_batch_sees_the_times_of_the_whole(name):
    sample_times = time_sampling.TIME_SAMPLERS[name](1000)
    whole, _ = sample_times(None, jax.random.key(2), jnp.arange(32), 32)
    share, _ = sample_times(None, jax.random.key(2), jnp.arange(8, 16), 32)
    np.testing.assert_array_equal(share, whole[8:16])


def test_low_discrepancy_puts_one_time_into_every_interval():
    t, _ = time_sampling.low_discrepancy(0)(None, jax.random.key(3), jnp.arange(64), 64)
    np.testing.assert_array_equal(np.sort(np.floor(np.asarray(t) * 64)), np.arange(64))
    t, _ = time_sampling.low_discrepancy(64)(None, jax.random.key(4), jnp.arange(64), 64)
    np.testing.assert_array_equal(np.sort(np.asarray(t)) * 64, np.arange(1, 65))
