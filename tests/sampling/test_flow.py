"""The probability-flow ODE keeps the marginals of every schedule, and encoding and decoding undo each other."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, in_float64, level
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.process.sde import drift_and_diffusion
from diffusion_jax.sampling import flow, grids, loop
from diffusion_jax.sampling.flow import solve_flow

PATHS = {
    "vp": (schedules.vp(), 1e-5),
    "subvp": (schedules.subvp(), 1e-5),
    "ve": (schedules.ve(), 0.0),
    "edm": (schedules.edm(), 0.0),
    "linear_logsnr": (schedules.linear_logsnr(), 0.0),
    "chain": (schedules.linear(1000), 1e-3),
    "harmonic": (schedules.harmonic(100), 1e-2),
}


def chosen(index):
    """One of these schedules, by its number: one compiled program serves all of them."""
    return lambda t: jax.lax.switch(index, [schedule for schedule, _ in PATHS.values()], t)


def numbered(names=tuple(PATHS)):
    return pytest.mark.parametrize("index", [list(PATHS).index(name) for name in names], ids=names)


@jax.jit
def inverted(index, t):
    return flow.level_at(chosen(index), flow.log_ratio(chosen(index), t))


@numbered()
def test_level_at_inverts_the_schedule(index):
    schedule, min_t = list(PATHS.values())[index]
    t = jnp.asarray([max(min_t, 1e-5), 0.01, 0.5, 0.987])
    at = inverted(index, t)
    np.testing.assert_allclose(at.t, t, rtol=1e-4, atol=3e-7)
    u = np.asarray(flow.log_ratio(schedule, t))
    np.testing.assert_allclose(at.log_sigma - at.log_alpha, u, rtol=1e-6, atol=1e-6)
    for found, exact in zip(at[1:3], level(schedule, t)[1:3], strict=True):
        np.testing.assert_allclose(found, exact, rtol=2e-6, atol=2e-5)


@jax.jit
def both_forms(index, t, z):
    """dx/dt from the flow, with x = s z and dx/dt = s dz/du du/dt + z ds/dt; and as f x - g²/2 score."""
    schedule, predict = chosen(index), oracles.exact(oracles.TWO_MODES)
    scale, scale_rate = jax.jvp(lambda t: jnp.exp(flow.log_scale(schedule, t)), (t,), (jnp.ones_like(t),))
    u, u_rate = jax.jvp(lambda t: flow.log_ratio(schedule, t), (t,), (jnp.ones_like(t),))
    rate = flow.flow_derivative(predict, schedule)(z, u)
    f, g2 = drift_and_diffusion(schedule, t)
    x, at = scale[:, None] * z, level(schedule, t)
    score = -predict(x, at).eps / at.sigma[:, None]
    return (scale * u_rate)[:, None] * rate + scale_rate[:, None] * z, f[:, None] * x - 0.5 * g2[:, None] * score


@numbered(("vp", "subvp", "ve", "edm", "chain"))
def test_is_the_ode_in_its_plain_form(index, x64):
    t, z = jnp.asarray([0.0123, 0.3456, 0.8765]), jnp.asarray([[0.3, -0.2], [1.0, 0.4], [-0.7, 2.0]])
    found, plain = both_forms(index, t, z)
    np.testing.assert_allclose(found, plain, rtol=1e-8, atol=1e-9)


ONE = oracles.Mixture(np.ones(1), np.array([[0.7]]), np.array([[[0.09]]]))


@jax.jit
def carried(index, x, t0, t1):
    return solve_flow(oracles.exact(ONE), chosen(index), x, t0, t1, 1e-6, 1e-6, 2000)


@numbered()
def test_carries_a_gaussian_to_its_marginal(index):
    """In one dimension the flow is the increasing map between the two normal laws, known in closed form."""
    schedule, min_t = list(PATHS.values())[index]
    quantiles = np.linspace(-2, 2, 8)[:, None]

    def of(t):
        at = jax.tree.map(lambda field: field[0], in_float64(level, schedule, np.array([t])))
        return at.alpha * 0.7 + np.sqrt(at.alpha**2 * 0.09 + at.sigma**2) * quantiles

    found, calls, ok = carried(index, jnp.asarray(of(1.0), jnp.float32), 1.0, min_t)
    assert ok.all() and calls.min() > 30 and calls.max() < 400
    np.testing.assert_allclose(found, of(min_t), atol=1e-4)


@jax.jit
def there_and_back(index, x, min_t):
    predict = oracles.exact(oracles.TWO_MODES)

    def one_way(x, ends):
        x, _, ok = solve_flow(predict, chosen(index), x, *ends, 1e-6, 1e-6, 2000)
        return x, (x, ok)

    _, (found, ok) = jax.lax.scan(one_way, x, (jnp.stack([min_t, 1.0]), jnp.stack([1.0, min_t])))
    return found, ok


@numbered()
def test_decoding_undoes_encoding(index):
    """To 2e-4 of the scale of the data: 1e-5 is usual."""
    _, min_t = list(PATHS.values())[index]
    x = jnp.asarray(oracles.draw(oracles.TWO_MODES, 16), jnp.float32)
    (there, back), ok = there_and_back(index, x, min_t)
    assert ok.all() and np.abs(there - x).max() > 1
    assert np.abs(back - x).max() < 2e-4 * float(x.std())


def test_dopri5_walks_in_parts_as_at_once():
    """To the lowest level with noise, and from there to the predicted x0; a sample that is lost is nan."""
    schedule, process, predict = schedules.cosine(20), GaussianProcess(), oracles.exact(oracles.TWO_MODES)
    method = flow.dopri5(1e-6, 1e-6)
    rows = loop.coefficients(process, schedule, grids.uniform(20, 20))
    x = process.prior(schedule, jax.random.split(jax.random.key(0), 4), (2,)).at[3, 0].set(jnp.nan)

    @jax.jit
    def walk(rows, x, carry):
        return method.walk(predict, schedule, rows, x, carry)

    def part(first, last):
        return jax.tree.map(lambda field: field[first:last], rows)

    found, (calls, ok) = walk(rows, x, method.init_carry(x))
    assert list(ok) == [True, True, True, False] and np.isnan(found[3]).any() and (calls[:3] > 50).all()
    halves = walk(part(10, 20), *walk(part(0, 10), x, method.init_carry(x)))
    np.testing.assert_allclose(halves[0][:3], found[:3], atol=2e-5)
    assert list(halves[1][1]) == list(ok) and (halves[1][0][:3] > calls[:3]).all()
    low, (before, _) = walk(part(0, 19), x, method.init_carry(x))
    at = jax.tree.map(lambda field: jnp.full(4, field[-1], jnp.float32), rows.at)
    np.testing.assert_allclose(found[:3], predict(low, at).x0[:3], atol=2e-6)
    assert list(before) == list(calls - 1)


def test_ddim_inversion_is_undone_to_first_order(x64):
    """Upwards with `inversion`, down again with DDIM (eta = 0): the error falls with the step."""
    predict, schedule, process = oracles.exact(oracles.TWO_MODES), schedules.cosine(400), GaussianProcess()
    x = jnp.asarray(oracles.draw(oracles.TWO_MODES, 32))

    def ddim(predict, reverse, row, x, carry, keys):
        found = predict(x, row.at)
        return row.to.alpha[:, None] * found.x0 + row.to.sigma[:, None] * found.eps, carry

    errors = []
    for steps in (100, 200):
        grid = np.linspace(1, 0.02, steps + 1)
        rows = loop.coefficients(process, schedule, grid)
        keys = jax.random.split(jax.random.key(0), 32)
        up = flow.upwards(rows)
        there, _ = loop.sample(flow.inversion, predict, None, up, x, keys)
        back, _ = loop.sample(ddim, predict, None, rows, there, keys)
        errors.append(float(jnp.sqrt(jnp.mean((back - x) ** 2))))
    assert 1.8 < errors[0] / errors[1] < 2.5 and errors[1] < 0.03


def test_the_way_up_leaves_out_the_step_without_noise():
    rows = loop.coefficients(GaussianProcess(), schedules.linear(10), grids.uniform(10, 10))
    up = flow.upwards(rows)
    assert isinstance(up.at, Level) and len(up.at.t) == 9
    np.testing.assert_allclose(up.to.t, np.arange(1, 10) / 10)
    np.testing.assert_allclose(up.at.t, np.arange(2, 11) / 10)
