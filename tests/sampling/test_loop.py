"""The grids, the rows and the one loop."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.objective import reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import loop
from diffusion_jax.sampling.ancestral import ancestral

PROCESS = GaussianProcess()


def test_uniform_times_include_both_ends_and_fall():
    np.testing.assert_allclose(loop.uniform_times(4), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(loop.uniform_times(3, 10) * 10, [10, 7, 3, 0])
    np.testing.assert_allclose(loop.uniform_times(1000, 1000) * 1000, np.arange(1000, -1, -1), atol=1e-9)
    for steps in (1, 7, 999):
        times = loop.uniform_times(steps, 1000)
        assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0 and np.all(np.diff(times) < 0)


@pytest.mark.parametrize(("steps", "chain", "message"), [(0, 10, "at least 1"), (11, 10, "the chain has only 10")])
def test_impossible_grids_are_refused(steps, chain, message):
    with pytest.raises(ValueError, match=message):
        loop.uniform_times(steps, chain)


def test_respaced_grids_are_those_of_the_papers():
    """In the papers' integers, k - 1: 1000 steps to 10 of improved DDPM, and to 50 of DDIM."""
    inclusive = np.round(loop.inclusive_times(10, 1000) * 1000).astype(int)
    np.testing.assert_array_equal(inclusive[:-1] - 1, np.arange(9, -1, -1) * 111)
    strided = np.round(loop.strided_times(50, 1000) * 1000).astype(int)
    np.testing.assert_array_equal(strided[:-1] - 1, np.arange(980, -1, -20))
    assert inclusive[-1] == strided[-1] == 0
    np.testing.assert_allclose(loop.chosen_times((1, 7, 3), 10) * 10, [7, 3, 1, 0])
    np.testing.assert_allclose(loop.inclusive_times(1, 10) * 10, [10, 0])


@pytest.mark.parametrize(
    ("steps", "message"), [((0, 3), "0 is not among them"), ((11,), "11 is not"), ((), "none"), ((3, 3), "twice")]
)
def test_steps_that_the_chain_has_not_are_refused(steps, message):
    with pytest.raises(ValueError, match=f"sampler.levels: the levels of the chain are 1 to 10; .*{message}"):
        loop.chosen_times(steps, 10)


def test_denoising_row_is_appended_only_where_noise_is_left():
    times = loop.uniform_times(5)
    assert len(loop.rows(PROCESS, schedules.linear(5), times, denoise=True).at.t) == 5
    rows = loop.rows(PROCESS, schedules.ve(), times, denoise=True)
    assert len(rows.at.t) == 6
    assert rows.x0_scale[-1] == 1 and rows.x_t_scale[-1] == 0 and np.isneginf(rows.to.log_sigma[-1])
    assert np.exp(rows.at.log_sigma[-1]) == pytest.approx(0.01)
    assert len(loop.rows(PROCESS, schedules.ve(), times, denoise=False).at.t) == 5


def test_loop_hands_rows_memory_and_keys_to_the_step():
    rows = loop.rows(PROCESS, schedules.linear(3), loop.uniform_times(3, 3))

    def step(predict, kernel, row, x, memory, keys):
        assert row.at.t.shape == (2,) and row.to.log_sigma.shape == (2,)
        return x + row.at.t[:, None] + memory, memory + 1

    keys = jax.random.split(jax.random.key(0), 2)
    x, memory = loop.sample(step, None, None, rows, jnp.zeros((2, 1)), keys, jnp.zeros(()))
    np.testing.assert_allclose(x, 2 + 0 + 1 + 2, rtol=1e-6)
    assert memory == 3


def test_a_sample_depends_on_its_own_key_alone():
    rows = loop.rows(PROCESS, schedules.linear(8), loop.uniform_times(8, 8))
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
        host = loop.rows(PROCESS, schedule, loop.uniform_times(7), denoise)
        traced = jax.jit(lambda s=schedule, d=denoise: loop.traced_rows(PROCESS, s, loop.uniform_times(7), d))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), host, traced)
