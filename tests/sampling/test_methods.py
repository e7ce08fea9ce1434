"""Samplers with the exact denoiser: whose equals they are, what they draw, and on what a sample depends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import orders
import pytest

from diffusion_jax.objective import prediction, reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, in_float64, level, normal
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import churn, exponential, grids, langevin, loop
from diffusion_jax.sampling.ddpm import ddim
from diffusion_jax.sampling.registry import SAMPLERS

PROCESS = GaussianProcess()
KERNEL = reverse.fixed_small(PROCESS)
EXACT = oracles.exact(oracles.TWO_MODES)
CHAIN = schedules.cosine(40)


def walk(method, rows, x, keys, predict=EXACT):
    return jax.jit(lambda x, keys: loop.sample(method.step, predict, KERNEL, rows, x, keys, method.init_carry(x))[0])(
        x, keys
    )


def chain_walk(method, dtype=jnp.float64, steps=20, end=0.0):
    """32 samples on about every other level of a chain."""
    rows = loop.coefficients(PROCESS, CHAIN, grids.uniform(steps, 40, end), method=method)
    keys_x, keys = jax.random.split(jax.random.key(0), (2, 32))
    x = PROCESS.prior(CHAIN, keys_x, (2,)).astype(dtype)
    return np.asarray(walk(method, rows, x, keys)), rows, np.asarray(x)


# Identities.


@pytest.mark.parametrize("other", [SAMPLERS["dpmpp_2m_sde"], lambda: ddim(1.0)])
def test_drawing_all_noise_anew_is_ancestral_sampling(other, x64):
    """DDIM with eta = 1 has the small variance's steps; so has the first step of 2M-SDE."""
    method = other()
    steps = 20 if method.init_carry(jnp.zeros((1, 2))) is None else 1
    rows = loop.coefficients(PROCESS, CHAIN, np.array([1.0, 0.5]) if steps == 1 else grids.uniform(steps, 40))
    keys_x, keys = jax.random.split(jax.random.key(0), (2, 32))
    x = PROCESS.prior(CHAIN, keys_x, (2,)).astype(jnp.float64)
    a, b = (walk(each, rows, x, keys) for each in (method, SAMPLERS["ancestral"]()))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)])
def test_ddim_is_euler_on_the_scaled_ode(dtype, tolerance):
    """y = x/alpha, S = sigma/alpha: y_s = y + eps (S_s - S_t), walked here in NumPy; and so is DPM-Solver++(1S)."""
    with jax.enable_x64(dtype == jnp.float64):
        found, rows, x = chain_walk(ddim(), dtype)
        same, _, _ = chain_walk(exponential.dpmpp_1s(), dtype)
    alpha, sigma = (np.exp(side) for side in (rows.at.log_alpha, rows.at.log_sigma))
    alpha_s, sigma_s = (np.exp(side) for side in (rows.to.log_alpha, rows.to.log_sigma))
    y = x.astype(np.float64) / alpha[0]
    with jax.enable_x64(True):
        eps = jax.jit(lambda x, at: EXACT(x, Level(*(jnp.full(32, field) for field in at))).eps)
        for i, at in enumerate(np.transpose(rows.at[:3])):
            y = y + np.asarray(eps(y * alpha[i], at)) * (sigma_s[i] / alpha_s[i] - sigma[i] / alpha[i])
    scale = np.abs(y).max()
    np.testing.assert_allclose(found, y, rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(same, y, rtol=0, atol=tolerance * scale)


def numpy_walk(x, rows, step):
    """x after `step(x, x0, eps, i)` for each row i, in NumPy with the exact denoiser in float64."""
    predict = jax.jit(lambda x, at: EXACT(x, Level(*(jnp.full(len(x), field) for field in at))))
    for i, at in enumerate(np.transpose(rows.at[:3])):
        found = predict(x, at)
        x = step(x, np.asarray(found.x0), np.asarray(found.eps), i)
    return x


@pytest.mark.parametrize("keep", [False, True])
def test_ddim_with_clipping_keeps_or_rederives_eps(keep, x64):
    """x_s = alpha_s clip(x0) + sigma_s eps: diffusers' DDIM keeps the predicted eps, Ho's code derives it from x0."""

    def predict(x, at):
        return prediction.clip_x0(lambda *args: EXACT(*args[1:3]), keep_eps=keep)(None, x, at)

    rows = loop.coefficients(PROCESS, CHAIN, grids.uniform(20, 40))
    keys_x, keys = jax.random.split(jax.random.key(0), (2, 32))
    x = PROCESS.prior(CHAIN, keys_x, (2,))
    alpha, sigma, alpha_s, sigma_s = (np.exp(field) for level in (rows.at, rows.to) for field in level[1:3])

    def step(x, x0, eps, i):
        clipped = np.clip(x0, -1, 1)
        eps = eps if keep else (x - alpha[i] * clipped) / sigma[i]
        return alpha_s[i] * clipped + sigma_s[i] * eps

    expected = numpy_walk(np.asarray(x), rows, step)
    np.testing.assert_allclose(walk(ddim(), rows, x, keys, predict), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("order", [2, 3])
def test_the_last_steps_of_dpm_solver_may_have_lower_orders(order, final, x64):
    """Lu et al. 2022: step i of N has order min(order, i), and at most N + 1 - i; down to the first level."""
    make = exponential.dpmpp_2m if order == 2 else functools.partial(exponential.dpmpp_3m, "half")
    found, rows, x = chain_walk(make(lower_order_final=final), end=1 / 40)
    number = len(rows.h)
    alpha_s, ratio = np.exp(rows.to.log_alpha), np.exp(rows.log_sigma_ratio)
    past = []

    def step(x, x0, eps, i):
        past.insert(0, x0)
        allowed = min(order, i + 1, number - i if final else order)
        h, phi1 = rows.h[i], np.expm1(-rows.h[i])
        x = ratio[i] * x - alpha_s[i] * phi1 * x0
        if allowed == 1:
            return x
        r0 = rows.h[i - 1] / h
        d0 = (past[0] - past[1]) / r0
        if allowed == 2:
            return x - alpha_s[i] * phi1 * d0 / 2 if order == 2 else x + alpha_s[i] * (phi1 / h + 1) * d0
        r1 = rows.h[i - 2] / h
        d1 = (past[1] - past[2]) / r1
        phi2, phi3 = phi1 / h + 1, (phi1 / h + 1) / h - 0.5
        slope, bend = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
        return x + alpha_s[i] * phi2 * slope - alpha_s[i] * phi3 * bend

    np.testing.assert_allclose(found, numpy_walk(x, rows, step), rtol=0, atol=1e-11)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("order", [2, 3])
def test_the_last_steps_of_unipc_may_have_lower_orders(order, final, x64):
    """Orders 1, 2, …, 2, 1, as diffusers' UniPCMultistepScheduler has them, each correction that of its step."""
    found, rows, x = chain_walk(exponential.unipc(order, final), steps=6, end=1 / 40)
    number = len(rows.h)
    orders_asked = [min(order, i + 1, number - i if final else order) for i in range(number)]
    assert not final or orders_asked == {2: [1, 2, 2, 2, 2, 1], 3: [1, 2, 3, 3, 2, 1]}[order]
    past = []  # lambda at each step, and the prediction there, the newest first
    u, weight = np.polynomial.legendre.leggauss(20)
    u, weight = (u + 1) / 2, weight / 2

    def integrated(i, points):
        """The integral over step i of the polynomial through (lambda, x0) of `points`, by quadrature."""
        start, h = sum(rows.h[:i]), rows.h[i]
        at, total = start + u * h, 0
        for j, (place, value) in enumerate(points):
            basis = np.prod([(at - other) / (place - other) for k, (other, _) in enumerate(points) if k != j], axis=0)
            total = total + np.sum(weight * h * np.exp(-(1 - u) * h) * basis) * value
        return np.exp(rows.to.log_alpha[i]) * total

    def step(x, x0, eps, i):
        here = (sum(rows.h[:i]), x0)
        if i:
            used = past[: orders_asked[i - 1]]
            x = x + integrated(i - 1, [here, *used]) - integrated(i - 1, used)
        past.insert(0, here)
        return np.exp(rows.log_sigma_ratio[i]) * x + integrated(i, past[: orders_asked[i]])

    np.testing.assert_allclose(found, numpy_walk(x, rows, step), rtol=0, atol=1e-11)


def test_two_and_three_points_are_the_methods_of_the_papers(x64):
    """One step with a known past against the published formulas; with one point all are the same step."""
    row = jax.tree.map(lambda field: jnp.asarray(field[:1]), orders.rows("VP", 80, "ddim"))
    x, keys = jnp.array([[0.3, -0.7]]), jax.random.split(jax.random.key(0), 1)
    past, h = (jnp.array([[0.4, 0.1]]), jnp.array([[-0.2, 0.6]])), np.asarray(row.h)
    x0 = np.asarray(jax.jit(EXACT)(x, row.at).x0)
    steps = (1.3 * h, 0.6 * h)
    r0, r1 = 1.3, 0.6
    past_on_host = [np.asarray(value) for value in past]
    scale, alpha, phi1 = np.exp(np.asarray(row.log_sigma_ratio)), np.exp(np.asarray(row.to.log_alpha)), np.expm1(-h)
    phi2 = phi1 / h + 1
    phi3 = phi2 / h - 0.5
    x_host = np.asarray(x)
    d0, d1 = (x0 - past_on_host[0]) / r0, (past_on_host[0] - past_on_host[1]) / r1
    slope, bend = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
    one = scale * x_host - alpha * phi1 * x0
    two = one - alpha * phi1 * d0 / 2
    three = {name: one + alpha * phi2 * slope - n * alpha * phi3 * bend for name, n in (("half", 1), ("whole", 2))}

    def step(method, length):
        history = exponential.History(past[:length], steps[:length], jnp.array(length))
        return jax.jit(lambda history: method.step(EXACT, None, row, x, history, keys)[0])(history)

    np.testing.assert_allclose(step(exponential.dpmpp_2m(), 1), two, rtol=1e-12)
    for name, expected in three.items():
        np.testing.assert_allclose(step(exponential.dpmpp_3m(name), 2), expected, rtol=1e-10, err_msg=name)
    for method in (exponential.dpmpp_2m(), exponential.dpmpp_3m(), SAMPLERS["unipc"]()):
        first = jax.jit(lambda x, m=method: m.step(EXACT, None, row, x, m.init_carry(x), keys)[0])(x)
        np.testing.assert_allclose(first, one, rtol=1e-12)


def test_moments_are_integrals(x64):
    u = (np.arange(200_000) + 0.5) / 200_000
    for h in (1e-3, 0.3, 0.999, 1.5, 9.0):
        found = exponential.moments(jnp.array([h]), 4)
        expected = [h * np.mean(np.exp(-(1 - u) * h) * u**j) for j in range(4)]
        np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-8)
    with jax.enable_x64(False):
        small = exponential.moments(jnp.array([1e-3]), 4)
    np.testing.assert_allclose(np.ravel(small), [1e-3 / (j + 1) for j in range(4)], rtol=1e-3)  # 1/(j+1) is off by h/2
    np.testing.assert_array_equal(np.ravel(exponential.moments(jnp.array([jnp.inf]), 4)), 1)


def test_churn_raises_the_noise_and_the_level_of_the_network(x64):
    schedule, steps = schedules.edm(), 8
    method = churn.edm(churn=2.0, s_min=0.01, s_max=20.0, s_noise=1.003)
    rows = loop.coefficients(PROCESS, schedule, grids.uniform(steps, end=0.0), denoise=True, method=method)
    assert len(rows.at.t) == steps + 1
    churned = (rows.at.sigma >= 0.01) & (rows.at.sigma <= 20)
    assert 0 < churned.sum() < steps
    gamma = min(2.0 / (steps + 1), 2**0.5 - 1)
    np.testing.assert_allclose(rows.up.sigma, np.where(churned, 1 + gamma, 1) * rows.at.sigma, rtol=1e-10)
    np.testing.assert_allclose(rows.added, np.sqrt(rows.up.sigma**2 - rows.at.sigma**2), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(in_float64(lambda t: level(schedule, t), rows.up.t).sigma, rows.up.sigma, rtol=1e-10)
    free = loop.coefficients(PROCESS, schedule, grids.uniform(18, end=0.0), method=churn.edm(churn=2.0, cap=False))
    np.testing.assert_allclose(free.up.sigma, free.at.sigma * (1 + 2 / 18), rtol=1e-10)  # as the public code
    np.testing.assert_allclose(free.up.sigma[0], 80 * (1 + 2 / 18), rtol=1e-12)
    np.testing.assert_allclose(free.added, np.sqrt(free.up.sigma**2 - free.at.sigma**2), rtol=1e-8)
    never_above = loop.coefficients(PROCESS, schedule, grids.uniform(steps, end=0.0), method=churn.edm(churn=80.0))
    assert never_above.up.sigma[0] == never_above.at.sigma[0] and np.all(never_above.up.t <= 1)


# What they draw.

SCHEDULES = {
    "cosine": (CHAIN, 1 / 40, 40),
    "vp": (schedules.vp(), 1e-3, 100),
    "subvp": (schedules.subvp(), 1e-3, 100),
    "ve": (schedules.ve(), 0.0, 100),
}
"""Name -> (schedule, where its grid ends, steps)."""
DRAWN = [
    ("ancestral", {}, "subvp"),
    ("ddim", {}, "cosine"),
    ("ddim", {"eta": 0.7}, "ve"),
    ("euler_maruyama", {}, "subvp"),
    ("reverse_diffusion", {}, "vp"),
    ("predictor_corrector", {"snr": 0.05, "norms": "expected"}, "subvp"),
    ("predictor_corrector", {"predictor": "ancestral", "snr": 0.05, "norms": "expected"}, "ve"),
    ("annealed_langevin", {"steps": 6}, "ve"),
    ("ode_euler", {}, "subvp"),
    ("ode_heun", {}, "cosine"),
    ("edm", {"churn": 20.0}, "vp"),
    ("dpmpp_1s", {}, "ve"),
    ("dpmpp_2m", {}, "ve"),
    ("dpmpp_3m", {}, "cosine"),
    ("dpmpp_2m_sde", {}, "subvp"),
    ("unipc", {}, "cosine"),
]


COUNT = 2000


@functools.cache
def prepared(of):
    """The schedule, and rows of a grid uniform in logsnr with a last step to x0."""
    schedule, end, steps = SCHEDULES[of]
    times = grids.logsnr(schedule, steps, end)
    return schedule, loop.coefficients(
        PROCESS, schedule, np.append(times, 0.0) if of == "cosine" else times, denoise=True
    )


@pytest.mark.parametrize(("name", "options", "of"), DRAWN)
def test_mean_and_covariance_are_those_of_the_data(name, options, of):
    """In float32, down to x0; and a sample is the same, byte for byte, in another place of the batch."""
    method = SAMPLERS[name](**options)
    schedule, rows = prepared(of)
    assert np.isneginf(rows.to.log_sigma[-1])
    if name == "edm":
        rows = jax.jit(lambda: method.prepare(loop.to_noiseless(schedule), rows))()
    keys_x, keys = jax.random.split(jax.random.key(0), (2, COUNT))
    x = PROCESS.prior(schedule, keys_x, (2,)).astype(jnp.float32)
    run = jax.jit(lambda x, keys: loop.sample(method.step, EXACT, KERNEL, rows, x, keys, method.init_carry(x))[0])
    drawn = run(x, keys)
    assert drawn.dtype == jnp.float32
    np.testing.assert_array_equal(drawn, run(x[::-1], keys[::-1])[::-1])
    data, drawn = oracles.TWO_MODES, np.asarray(drawn, np.float64)
    # 5 standard errors, and the error of so many steps
    assert np.all(np.abs(drawn.mean(0) - data.mean) < 5 * np.sqrt(np.diag(data.covariance) / COUNT) + 0.03)
    assert np.all(np.abs(np.cov(drawn.T) - data.covariance) < 5 * 1.5 * data.covariance.max() / COUNT**0.5 + 0.05)


# Langevin dynamics.


def corrector_map(snr, norms="expected"):
    """The affine map of a step of Langevin dynamics on Gaussian data at one level, and the size e it should have."""
    row = jax.tree.map(lambda field: jnp.asarray(np.repeat(field[200:201], 3)), orders.rows("sub-VP", 320, "ddim"))
    exact = oracles.exact(oracles.GAUSSIAN)

    ask = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    keys = jnp.broadcast_to(jax.random.key(0), (3,))
    zero, *units = np.asarray(jax.jit(lambda x, snr: langevin._langevin(exact, row, x, keys, snr, 1, norms))(ask, snr))
    e = 2 * snr**2 * float(np.exp(-2 * row.log_alpha_ratio[0]) * row.to.sigma[0] ** 2)
    return np.stack([unit - zero for unit in units], 1), e, jax.tree.map(lambda field: float(field[0]), row.to)


def test_langevin_dynamics_leave_the_marginal_unchanged_up_to_their_step(x64):
    """On N(m, C) a step maps covariance V to (1 - e/C) V (1 - e/C) + 2 e, whose fixed point is C (1 - e/(2 C))^-1."""
    errors, sizes = [], []
    for snr in (0.2, 0.1, 0.05, 0.025):
        a, e, to = corrector_map(snr)
        _, covariance = orders.marginal(to)
        np.testing.assert_allclose(a, np.eye(2) - e * np.linalg.inv(covariance), rtol=0, atol=1e-10)
        # V = A V A' + 2 e I as a linear system
        fixed = np.linalg.solve(np.eye(4) - np.kron(a, a), (2 * e * np.eye(2)).ravel()).reshape(2, 2)
        np.testing.assert_allclose(fixed, covariance @ np.linalg.inv(np.eye(2) - a_half(e, covariance)), rtol=1e-6)
        errors.append(np.abs(fixed - covariance).max())
        sizes.append(e)
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(1, abs=0.05)


def a_half(e, covariance):
    return e / 2 * np.linalg.inv(covariance)


def test_langevin_steps_have_the_requested_ratio_of_norms(x64):
    """|step · score| / |sqrt(2 step) noise| = snr sqrt(alpha-ratio²): Song's rule, on an example's own norms."""
    row = jax.tree.map(lambda field: jnp.asarray(np.repeat(field[100:101], 5)), orders.rows("VP", 160, "ddim"))
    x, keys = 2 * jax.random.normal(jax.random.key(3), (5, 2)), jax.random.split(jax.random.key(4), 5)
    moved = jax.jit(lambda x: langevin._langevin(EXACT, row, x, keys, 0.1, 1, "example") - x)(x)
    score = -jax.jit(EXACT)(x, row.to).eps / row.to.sigma[:, None]
    noise = normal(jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys), (2,), x.dtype)
    norm = lambda v: jnp.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    e = 2 * jnp.exp(-2 * row.log_alpha_ratio)[:, None] * (0.1 * norm(noise) / norm(score)) ** 2
    np.testing.assert_allclose(moved, e * score + jnp.sqrt(2 * e) * noise, rtol=1e-10)


def test_annealed_langevin_dynamics_visit_every_level_and_may_include_the_first(x64):
    """On N(m, c), where n steps of size e = 2 snr² sigma² at a level map mean and variance affinely; down to k = 1."""
    m, c, snr, steps, count = 3.0, 0.25, 0.3, 4, 8000
    schedule, sigmas = schedules.geometric(5, 0.1, 1.0), np.geomspace(1.0, 0.1, 5)
    rows = loop.coefficients(PROCESS, schedule, grids.to_first(5, 5))
    exact = oracles.exact(oracles.Mixture(np.ones(1), np.full((1, 1), m), np.full((1, 1, 1), c)))
    keys_x, keys = jax.random.split(jax.random.key(0), (2, count))
    x = PROCESS.prior(schedule, keys_x, (1,)).astype(jnp.float64)
    drawn = walk(langevin.annealed_langevin(snr, steps, at_start=True), rows, x, keys, exact)
    mean, variance = 0.0, 1 + sigmas[0] ** 2
    for sigma in np.repeat(sigmas, steps):
        e = 2 * snr**2 * sigma**2
        shrink = 1 - e / (c + sigma**2)
        mean, variance = m + shrink * (mean - m), shrink**2 * variance + 2 * e
    assert abs(np.mean(drawn) - mean) < 5 * (variance / count) ** 0.5
    assert abs(np.var(drawn) / variance - 1) < 5 * (2 / count) ** 0.5


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: ddim(1.5), r"sampler\.ddim\.eta"),
        (lambda: exponential.dpmpp_2m_sde(-0.1), r"sampler\.dpmpp_2m_sde\.eta"),
        (lambda: exponential.dpmpp_3m("full"), "second_difference"),
        (lambda: SAMPLERS["unipc"](4), r"sampler\.unipc\.order"),
        (lambda: churn.edm(churn=-1.0), r"sampler\.edm.*churn"),
        (lambda: langevin.predictor_corrector("ddim"), "predictor"),
        (lambda: langevin.predictor_corrector(snr=0.0), "snr"),
        (lambda: langevin.annealed_langevin(norms="mean"), r"annealed_langevin\.norms"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, option):
    with pytest.raises(ValueError, match=option) as caught:
        make()
    assert "\n" not in str(caught.value)
