"""Losses: weights against their definitions, and the loss of the exact denoiser in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.declarations import facts_of
from diffusion_jax.objective import bound, decoders, losses, prediction, reverse, targets
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, level
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop

SCHEDULE = schedules.cosine(100)
AT = level(SCHEDULE, jnp.array([0.05, 0.3, 0.5, 0.8, 0.95]))
SNR = jnp.exp(AT.logsnr)
WEIGHT_OF_X0 = {
    "snr": SNR,
    "truncated_snr": jnp.maximum(SNR, 1),
    "min_snr": jnp.minimum(SNR, 5),
    "p2": SNR / (1 + SNR),
    "edm": SNR + 4,
    "likelihood": SNR * losses.gamma_rate(SCHEDULE, AT.t),
}
OPTIONS = {"likelihood": {"schedule": SCHEDULE}}


def squared_error(predict, target):
    term = losses.weighted_mse(lambda params: SCHEDULE, target, losses.simple())
    return losses.weighted_sum(predict, GaussianProcess(), lambda params: SCHEDULE, {"mse": (1.0, term)})


@pytest.mark.parametrize("name", WEIGHT_OF_X0)
@pytest.mark.parametrize("target", [name for name, make in targets.TARGETS.items() if not facts_of(make).chain])
def test_weight_on_x0_does_not_depend_on_the_prediction_target(name, target):
    """An error d of x0 (x_t known) is an error (a - b alpha/sigma) d of the target."""
    a, b = ab = targets.TARGETS[target]()(SCHEDULE, AT)
    scale = (a - b * AT.alpha / AT.sigma) ** 2
    np.testing.assert_allclose(
        losses.WEIGHTS[name](**OPTIONS.get(name, {}))(AT, ab) * scale, WEIGHT_OF_X0[name], rtol=1e-5
    )


def test_simple_is_one_on_the_target_itself():
    np.testing.assert_array_equal(losses.simple()(AT, (AT.t, AT.t)), 1)


def test_augmented_loss_is_that_of_augmented_examples_in_training_alone():
    """The denoiser adds the sum of the augmentation's label to its x0."""

    def predict(params, x, at, label, keys, *augment):
        x0 = x + sum(label.sum(1, keepdims=True) for label in augment)
        return prediction.Prediction(x0, jnp.zeros_like(x), None)

    def lifted(predict, amount):
        return lambda *args: predict(*args)._replace(x0=args[1] + amount)

    plain, more = (squared_error(lifted(predict, amount), targets.x0()) for amount in (0.0, 6.0))
    loss = losses.augmented(squared_error(predict, targets.x0()), lambda x0, keys: (x0 + 1, jnp.full((5, 2), 3.0)))
    batch, keys = {"x0": jnp.ones((5, 3)), "label": jnp.zeros(5, jnp.int32)}, jax.random.split(jax.random.key(0), 5)
    in_training, _ = loss(None, batch, AT.t, keys)
    np.testing.assert_array_equal(in_training, more(None, batch | {"x0": batch["x0"] + 1}, AT.t, keys)[0])
    in_evaluation, _ = loss(None, batch, AT.t, keys, dropout=False)
    np.testing.assert_array_equal(in_evaluation, plain(None, batch, AT.t, keys)[0])


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_loss_of_the_exact_denoiser_is_the_conditional_variance(target, x64):
    """For x0 ~ N(0, v): Var[x0 | x_t] = v sigma²/(alpha² v + sigma²), times the factor to the target's error."""
    variance, n = 0.3, 40_000
    data = oracles.Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), variance))
    make = targets.TARGETS[target]()
    loss = squared_error(lambda params, x, at, label, keys: oracles.exact(data)(x, at), make)
    key = jax.random.key(0)
    batch = {"x0": variance**0.5 * jax.random.normal(key, (n, 1)), "label": jnp.full(n, -1)}
    t = jnp.full(n, 0.4)
    per_example, metrics = loss(None, batch, t, jax.random.split(jax.random.key(1), n))
    at = level(SCHEDULE, t[:1])
    a, b = make(SCHEDULE, at)
    x0_variance = variance * at.sigma**2 / (at.alpha**2 * variance + at.sigma**2)
    expected = float((x0_variance * (a - b * at.alpha / at.sigma) ** 2)[0])
    standard_error = float(per_example.std()) / n**0.5
    assert abs(float(per_example.mean()) - expected) < 4 * standard_error
    np.testing.assert_array_equal(metrics["mse"], per_example)


def test_noise_of_a_batch_takes_the_place_of_drawn_noise(x64):
    noise = jax.random.normal(jax.random.key(2), (3, 2))
    loss = squared_error(lambda params, x, at, label, keys: prediction.Prediction(0 * x, 0 * x, None), targets.eps())
    batch = {"x0": jnp.ones((3, 2)), "label": jnp.full(3, -1), "noise": noise}
    per_example, _ = loss(None, batch, jnp.full(3, 0.4), jax.random.split(jax.random.key(1), 3))
    np.testing.assert_allclose(per_example, (noise**2).mean(1), rtol=1e-12)


def test_network_gets_keys_only_with_dropout_and_labels_always():
    seen = []

    def predict(params, x, at, label, keys):
        seen.append((label, keys))
        return prediction.Prediction(x, x, None)

    loss = squared_error(predict, targets.eps())
    batch = {"x0": jnp.zeros((2, 3)), "label": jnp.array([4, 5])}
    keys = jax.random.split(jax.random.key(0), 2)
    loss(None, batch, jnp.array([0.1, 0.2]), keys)
    loss(None, batch, jnp.array([0.1, 0.2]), keys, dropout=False)
    np.testing.assert_array_equal(seen[0][0], [4, 5])
    assert seen[0][1].shape == (2,) and seen[1][1] is None


def test_noise_of_an_example_depends_on_its_own_key(x64):
    def predict(params, x, at, label, keys):
        return prediction.Prediction(x, jnp.zeros_like(x), None)

    loss = squared_error(predict, targets.eps())
    keys = jax.random.split(jax.random.key(0), 4)
    batch = {"x0": jnp.zeros((4, 6)), "label": jnp.zeros(4, int)}
    whole, _ = loss(None, batch, jnp.full(4, 0.5), keys)
    share, _ = loss(None, jax.tree.map(lambda x: x[2:], batch), jnp.full(2, 0.5), keys[2:])
    np.testing.assert_allclose(share, whole[2:], rtol=1e-12)
    assert len(np.unique(whole)) == 4


def test_level_is_a_plain_tuple():
    assert isinstance(AT, Level) and len(jax.tree.leaves(AT)) == 3


GRID = loop.coefficients(GaussianProcess(), SCHEDULE, grids.uniform(100, 100), denoise=True)


def vlb_term(kernel, stop_mean=False):
    return losses.vlb(
        bound.step_term(GaussianProcess(), kernel, decoders.density()), lambda params: GRID, 100, stop_mean=stop_mean
    )


def test_random_times_estimate_the_sum_of_all_terms(x64):
    """The mean of the vlb loss over random t is the sum of its terms, within 3 standard errors at a fixed seed."""
    variance, n = 0.3, 60_000
    data = oracles.Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), variance))
    kernel = reverse.fixed_large(GaussianProcess())
    loss = losses.weighted_sum(
        lambda params, x, at, label, keys: oracles.exact(data)(x, at),
        GaussianProcess(),
        lambda params: SCHEDULE,
        {"vlb": (1.0, vlb_term(kernel))},
    )
    key_x0, key_t, key = jax.random.split(jax.random.key(0), 3)
    batch = {"x0": variance**0.5 * jax.random.normal(key_x0, (n, 1)), "label": jnp.full(n, -1)}
    t = (1 + jax.random.randint(key_t, (n,), 0, 100)) / 100
    per_example, _ = jax.jit(loss)(None, batch, t, jax.random.split(key, n))

    term = bound.step_term(GaussianProcess(), kernel, decoders.density())

    def mean_term(numbered):  # each t with its own large sample
        i, step = numbered
        step = jax.tree.map(lambda field: jnp.full(n, field), step)
        x_t = GaussianProcess().corrupt(step.at, batch["x0"], jax.random.normal(jax.random.fold_in(key, i), (n, 1)))
        return term(step, oracles.exact(data)(x_t, step.at), batch["x0"], x_t).mean()

    numbered = (jnp.arange(100), jax.tree.map(jnp.asarray, GRID))
    every = float(jax.jit(lambda: jax.lax.map(mean_term, numbered).sum())())
    standard_error = float(per_example.std()) / n**0.5
    assert abs(float(per_example.mean()) - every / np.log(2)) < 3 * standard_error
    assert standard_error < 0.5  # L_0 alone is -3


def test_hybrid_trains_the_mean_by_the_squared_error_alone(x64):
    """The bound has no gradient in the mean, the squared error none in the variance.

    Reference: Nichol and Dhariwal 2021, eq. 16.
    """
    kernel = reverse.learned_range(GaussianProcess())

    def predict(params, x, at, label, keys):
        eps = params["mean"] * x
        x0 = (x - at.sigma[:, None] * eps) / at.alpha[:, None]
        return prediction.Prediction(x0, eps, params["head"] * jnp.ones_like(x))

    mse = losses.weighted_mse(lambda params: SCHEDULE, targets.eps(), losses.simple())
    batch = {"x0": jax.random.normal(jax.random.key(0), (8, 3)), "label": jnp.full(8, -1)}
    t, keys = jnp.arange(1, 9) / 10, jax.random.split(jax.random.key(1), 8)

    def gradient(terms):
        loss = losses.weighted_sum(predict, GaussianProcess(), lambda params: SCHEDULE, terms)
        params = {"mean": jnp.array(0.5), "head": jnp.array(0.2)}
        return jax.jit(jax.grad(lambda params: loss(params, batch, t, keys)[0].mean()))(params)

    hybrid = gradient({"mse": (1.0, mse), "vlb": (0.001, vlb_term(kernel, stop_mean=True))})
    simple, full = gradient({"mse": (1.0, mse)}), gradient({"vlb": (1.0, vlb_term(kernel))})
    assert float(hybrid["mean"]) == pytest.approx(float(simple["mean"]), rel=1e-12) and simple["head"] == 0
    assert float(hybrid["head"]) == pytest.approx(0.001 * float(full["head"]), rel=1e-12) and full["head"] != 0
    assert abs(float(full["mean"])) > 0


def test_bound_is_least_at_the_exact_variance(x64):
    """Minimised over the head alone, the bound gives the variance that is exact for Gaussian data."""
    variance, n = 0.3, 40_000
    data = oracles.Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), variance))
    term = bound.step_term(GaussianProcess(), reverse.learned_diagonal(GaussianProcess()), decoders.density())
    step = jax.tree.map(lambda field: jnp.full(n, field[40]), GRID)
    keys = jax.random.split(jax.random.key(0), 2)
    x0 = variance**0.5 * jax.random.normal(keys[0], (n, 1))
    x_t = GaussianProcess().corrupt(step.at, x0, jax.random.normal(keys[1], (n, 1)))
    guess = oracles.exact(data)(x_t, step.at)

    def value(head):
        return term(step, guess._replace(head=jnp.full((n, 1), head)), x0, x_t).mean()

    heads = jnp.linspace(-8, 0, 801)
    best = float(heads[jnp.argmin(jax.lax.map(value, heads))])
    at, to = (jax.tree.map(lambda f: float(f[0]), level) for level in (step.at, step.to))
    ratio = at.alpha / to.alpha
    marginal = [level.alpha**2 * variance + level.sigma**2 for level in (to, at)]
    exact = marginal[0] - (ratio * marginal[0]) ** 2 / marginal[1]  # Var[x_s | x_t] of jointly Gaussian x_s, x_t
    assert best == pytest.approx(np.log(exact), abs=0.03)


def test_gamma_rate_is_that_of_the_sde(x64):
    """g²/sigma²: beta/(1 - alpha²) for VP, 2 log(sigma_max/sigma_min) for VE, the slope of a linear gamma."""
    t = jnp.array([1e-5, 1e-3, 0.3, 1.0])
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
    np.testing.assert_allclose(losses.gamma_rate(schedules.vp(), t), beta / -jnp.expm1(-integral), rtol=1e-9)
    np.testing.assert_allclose(losses.gamma_rate(schedules.ve(0.01, 50.0), t), 2 * np.log(5000), rtol=1e-9)
    np.testing.assert_allclose(losses.gamma_rate(schedules.linear_logsnr(-13.3, 5.0), t), 18.3, rtol=1e-9)


def test_edm_weight_is_one_on_the_target_of_edm(x64):
    at = level(schedules.edm(), jnp.linspace(0, 1, 7))
    ab = targets.edm(0.7)(None, at)
    np.testing.assert_allclose(losses.edm(0.7)(at, ab), 1, rtol=1e-9)


def test_reductions_differ_by_the_number_of_dimensions(x64):
    data = {"x0": jax.random.normal(jax.random.key(0), (4, 3, 2)), "label": jnp.full(4, -1)}
    per_example = {}
    for name in losses.REDUCTIONS:
        term = losses.weighted_mse(lambda params: SCHEDULE, targets.eps(), losses.simple(), name)
        predict = lambda params, x, *args: prediction.Prediction(x, 0.5 * x, None)  # noqa: E731
        loss = losses.weighted_sum(predict, GaussianProcess(), lambda params: SCHEDULE, {"mse": (1.0, term)})
        per_example[name] = loss(None, data, jnp.full(4, 0.4), jax.random.split(jax.random.key(1), 4))[0]
    np.testing.assert_allclose(per_example["sum"], 6 * per_example["mean"], rtol=1e-12)
    np.testing.assert_allclose(per_example["half_sum"], 3 * per_example["mean"], rtol=1e-12)


def line(params):
    """Learned schedule with two parameters: gamma = b + |w| t."""

    def schedule(t):
        gamma = params["b"] + jnp.abs(params["w"]) * t
        return -0.5 * jnp.logaddexp(0, gamma), -0.5 * jnp.logaddexp(0, -gamma)

    return schedule


def vdm_loss(data):
    terms = losses.vdm(GaussianProcess(), line, decoders.density())
    return losses.weighted_sum(
        lambda params, x, at, label, keys: oracles.exact(data)(x, at),
        GaussianProcess(),
        line,
        {name: (1.0, term) for name, term in terms.items()},
    )


def test_vdm_loss_of_gaussian_data_is_their_entropy(x64):
    variance, n = 0.3, 200_000
    data = oracles.Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), variance))
    params = {"b": jnp.array(-13.3), "w": jnp.array(18.3)}
    batch = {"x0": variance**0.5 * jax.random.normal(jax.random.key(0), (n, 1)), "label": jnp.full(n, -1)}
    t = (0.3 + jnp.arange(n)) / n
    per_example, metrics = jax.jit(vdm_loss(data))(params, batch, t, jax.random.split(jax.random.key(1), n))
    entropy = 0.5 * np.log2(2 * np.pi * np.e * variance)
    standard_error = float(per_example.std()) / n**0.5
    assert abs(float(per_example.mean()) - entropy) < 4 * standard_error and standard_error < 0.1
    assert set(metrics) == {"diffusion", "prior", "reconstruction"}
    np.testing.assert_allclose(sum(metrics.values()), per_example, rtol=1e-12, atol=1e-13)


def test_vdm_loss_trains_the_schedule(x64):
    """The gradient in the two parameters of the schedule agrees with finite differences, and is not zero."""
    batch = {"x0": jax.random.normal(jax.random.key(0), (64, 2)), "label": jnp.full(64, -1)}
    keys, t = jax.random.split(jax.random.key(1), 64), (0.5 + jnp.arange(64)) / 64

    @jax.jit
    @jax.value_and_grad
    def value(params):
        return vdm_loss(oracles.GAUSSIAN)(params, batch, t, keys)[0].mean()

    params = {"b": jnp.array(-6.0), "w": jnp.array(9.0)}
    _, gradient = value(params)
    for name in params:
        up, down = (value(params | {name: params[name] + step})[0] for step in (1e-4, -1e-4))
        assert float(gradient[name]) == pytest.approx(float(up - down) / 2e-4, rel=1e-5)
        assert abs(float(gradient[name])) > 1e-4
