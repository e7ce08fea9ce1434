"""The grids, the rows and the one loop."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.objective import reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.ddpm import ancestral

PROCESS = GaussianProcess()


def test_denoising_row_is_appended_only_where_noise_is_left():
    times = grids.uniform(5)
    assert len(loop.coefficients(PROCESS, schedules.linear(5), times, denoise=True).at.t) == 5
    rows = loop.coefficients(PROCESS, schedules.ve(), times, denoise=True)
    assert len(rows.at.t) == 6
    assert rows.x0_scale[-1] == 1 and rows.x_t_scale[-1] == 0 and np.isneginf(rows.to.log_sigma[-1])
    assert np.exp(rows.at.log_sigma[-1]) == pytest.approx(0.01)
    assert len(loop.coefficients(PROCESS, schedules.ve(), times, denoise=False).at.t) == 5


def test_loop_hands_rows_memory_and_keys_to_the_step():
    rows = loop.coefficients(PROCESS, schedules.linear(3), grids.uniform(3, 3))

    def step(predict, kernel, row, x, carry, keys):
        assert row.at.t.shape == (2,) and row.to.log_sigma.shape == (2,)
        return x + row.at.t[:, None] + carry, carry + 1

    keys = jax.random.split(jax.random.key(0), 2)
    x, carry = loop.sample(step, None, None, rows, jnp.zeros((2, 1)), keys, jnp.zeros(()))
    np.testing.assert_allclose(x, 2 + 0 + 1 + 2, rtol=1e-6)
    assert carry == 3


def test_a_sample_depends_on_its_own_key_alone():
    rows = loop.coefficients(PROCESS, schedules.linear(8), grids.uniform(8, 8))
    keys = jax.random.split(jax.random.key(0), 4)
    x = PROCESS.prior(schedules.linear(8), keys, (2,))
    run = jax.jit(
        lambda x, keys: loop.sample(
            ancestral().step, oracles.exact(oracles.TWO_MODES), reverse.fixed_large(PROCESS), rows, x, keys
        )[0]
    )
    whole, turned = run(x, keys), run(x[::-1], keys[::-1])
    np.testing.assert_array_equal(whole, turned[::-1])
    assert len(np.unique(np.asarray(whole))) == 8


def test_traced_rows_are_those_of_the_host(x64):
    for schedule, denoise in ((schedules.cosine(7), False), (schedules.ve(), True)):
        host = loop.coefficients(PROCESS, schedule, grids.uniform(7), denoise)
        traced = jax.jit(lambda s=schedule, d=denoise: loop.traced_coefficients(PROCESS, s, grids.uniform(7), d))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), host, traced)
