"""Parameterisations as linear systems: round trips, and errors in float32; conditioning; denoisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.declarations import facts_of
from diffusion_jax.objective import conditionings, prediction, targets
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, level
from diffusion_jax.process.gaussian import GaussianProcess, step_coefficients

STEPS = 100
TARGETS = {name: make() for name, make in targets.TARGETS.items() if not facts_of(make).chain}
TARGETS["posterior_mean"] = targets.posterior_mean(STEPS)
SCHEDULES = {
    "linear": schedules.linear(1000),
    "cosine": schedules.cosine(STEPS),
    "subvp": schedules.subvp(),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
}


def pair(dtype):
    x0, eps = jax.random.normal(jax.random.key(0), (2, STEPS, 3, 2), dtype)
    return x0, eps


def round_trip(target, schedule, dtype):
    """Return the errors [STEPS] of (x0, eps) recovered from the target, the condition numbers, and the levels."""
    x0, eps = pair(dtype)
    at = level(schedule, jnp.arange(1, STEPS + 1, dtype=dtype) / STEPS)
    x_t = GaussianProcess().corrupt(at, x0, eps)
    ab = target(schedule, at)
    output = targets.combine_x0_eps(ab, x0, eps)
    got = targets.solve_x0_eps(ab, at, x_t, output)
    errors = [np.abs(np.asarray(g - w)).max((1, 2)) for g, w in zip(got, (x0, eps), strict=True)]
    # Both equations are scaled to 1: the size of a and b does not matter to the conditioning.
    system = np.moveaxis(np.array([[at.alpha, at.sigma], ab], np.float64), -1, 0)
    condition = np.linalg.cond(system / np.linalg.norm(system, axis=2, keepdims=True))
    return np.max(errors, axis=0), condition, at


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", TARGETS)
def test_round_trip_in_float64(target, schedule, x64):
    error, _, _ = round_trip(TARGETS[target], SCHEDULES[schedule], jnp.float64)
    assert np.all(error < 1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", TARGETS)
def test_round_trip_in_float32(target, schedule):
    error, condition, at = round_trip(TARGETS[target], SCHEDULES[schedule], jnp.float32)
    moderate = (at.alpha >= 0.05) & (at.sigma >= 0.05)
    if target == "posterior_mean":
        moderate = np.zeros_like(moderate)
    scale = np.hypot(at.alpha, at.sigma)  # of x_t: 1 unless the variance explodes
    assert np.all(error[moderate] < 5e-5 * scale[moderate])
    # Some ten operations on numbers up to 4, each with a relative error of 1.2e-7, times the condition number.
    assert np.all(error < 5e-6 * condition * scale)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_velocity_determines_x0_from_pure_noise_on(dtype, x64):
    error, condition, _ = round_trip(TARGETS["velocity"], schedules.rectified_flow(), dtype)
    assert condition.max() < 3 and error.max() < 40 * jnp.finfo(dtype).eps


@pytest.mark.parametrize("name", ["eps", "score"])
def test_eps_is_found_where_x0_is_not(name, x64):
    """At t = 1 of rectified flow x0 is 0, eps is exact, and the gradient by the output is finite."""
    x0, eps = pair(jnp.float64)
    at = level(schedules.rectified_flow(), jnp.arange(1, STEPS + 1) / STEPS)
    x_t = GaussianProcess().corrupt(at, x0, eps)
    ab = TARGETS[name](None, at)
    output = targets.combine_x0_eps(ab, x0, eps)
    got = targets.solve_where_determined(ab, at, x_t, output)
    np.testing.assert_allclose(got[1], eps, atol=1e-12)
    np.testing.assert_allclose(got[0][:-1], x0[:-1], atol=1e-11)
    np.testing.assert_array_equal(got[0][-1], 0)
    again = jax.grad(lambda output: jnp.sum(targets.solve_where_determined(ab, at, x_t, output)[1]))(output)
    assert np.isfinite(again).all() and np.all(again != 0)


def test_coefficients_are_the_definitions(x64):
    at = Level(jnp.array([0.4]), jnp.log(jnp.array([0.6])), jnp.log(jnp.array([0.8])))
    x0, eps = jnp.array([[2.0]]), jnp.array([[-1.0]])
    expected = {"eps": -1.0, "x0": 2.0, "v": 0.6 * -1 - 0.8 * 2, "score": 1 / 0.8, "velocity": -3.0}
    for name, value in expected.items():
        got = targets.combine_x0_eps(TARGETS[name](None, at), x0, eps)
        assert float(got[0, 0]) == pytest.approx(value, rel=1e-12)


def test_edm_is_the_preconditioning_of_the_paper(x64):
    """x0 = c_skip x + c_out F with x = x_t/alpha, c_in x has variance 1, and d = 1 in a VP process gives -v."""
    d, sigma = 0.5, jnp.array([0.002, 0.3, 80.0])
    c_skip, c_out = d**2 / (sigma**2 + d**2), sigma * d / jnp.sqrt(sigma**2 + d**2)
    for alpha in (1.0, 0.2):
        at = Level(sigma, jnp.full(3, jnp.log(alpha)), jnp.log(alpha * sigma))
        x, output = jax.random.normal(jax.random.key(0), (2, 3, 4))
        got, _ = targets.solve_x0_eps(targets.edm(d)(None, at), at, alpha * x, output)
        np.testing.assert_allclose(got, c_skip[:, None] * x + c_out[:, None] * output, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            conditionings.unit_variance(d)(at) * alpha, 1 / jnp.sqrt(sigma**2 + d**2), rtol=1e-12
        )
    at = level(schedules.vp(), jnp.array([0.1, 0.6]))
    for a, b in zip(targets.edm(1.0)(None, at), targets.v()(None, at), strict=True):
        np.testing.assert_allclose(a, -b, rtol=1e-12)


def test_input_scale_is_applied_at_the_input_alone(x64):
    at = Level(jnp.array([0.5]), jnp.log(jnp.array([0.6])), jnp.log(jnp.array([0.8])))
    seen = []

    def apply(variables, x, conditioning, label, keys):
        seen.append(x)
        return x

    for scale in (None, conditionings.unit_variance(0.5)):
        prediction.make_denoiser(
            apply, lambda params: None, TARGETS["x0"], conditionings.time_conditioning(), input_scale=scale
        )({"net": None}, jnp.ones((1, 2)), at)
    np.testing.assert_array_equal(seen[0], 1)
    np.testing.assert_allclose(seen[1], 1 / np.sqrt(0.64 + 0.09), rtol=1e-12)


def test_posterior_mean_is_that_of_the_process(x64):
    schedule = schedules.linear(STEPS)
    t = jnp.array([1.0, 0.5, 0.01])
    at = level(schedule, t)
    x0, eps = jax.random.normal(jax.random.key(1), (2, 3, 4))
    x_t = GaussianProcess().corrupt(at, x0, eps)
    step = step_coefficients(at, level(schedule, t - 1 / STEPS))
    mean, _ = GaussianProcess().posterior(step, x0, x_t)
    got = targets.combine_x0_eps(TARGETS["posterior_mean"](schedule, at), x0, eps)
    np.testing.assert_allclose(got, mean, atol=1e-12)
    np.testing.assert_allclose(got[2], x0[2], atol=1e-12)  # the last step ends at x0 itself


def test_denoiser_splits_off_the_head_and_passes_everything_on(x64):
    seen = {}

    def apply(variables, x, conditioning, label, keys):
        seen.update(params=variables["params"], conditioning=conditioning, label=label, keys=keys)
        return jnp.concatenate([0 * x, x + 7], -1)

    schedule = schedules.linear(1000)
    predict = prediction.make_denoiser(
        apply, lambda params: schedule, TARGETS["eps"], conditionings.step_conditioning(1000), True
    )
    at = level(schedule, jnp.array([0.001, 1.0]))
    x_t = jnp.ones((2, 4, 4, 3))
    got = predict({"net": "p"}, x_t, at, "label", "keys")
    assert seen["params"] == "p" and seen["label"] == "label" and seen["keys"] == "keys"
    np.testing.assert_array_equal(seen["conditioning"], [0, 999])
    np.testing.assert_allclose(got.x0, x_t / at.alpha[:, None, None, None], rtol=1e-12)
    np.testing.assert_array_equal(got.head, 8)


@pytest.mark.parametrize("steps", [40, 200, 1000, 2000, 4000])
def test_step_conditioning_is_a_whole_number_on_the_chain(steps):
    t = jnp.asarray(np.arange(1, steps + 1) / steps, jnp.float32)
    at = Level(t, t, t)
    np.testing.assert_array_equal(conditionings.step_conditioning(steps)(at), np.arange(steps))
    between = conditionings.step_conditioning(steps)(Level(jnp.array(10.5 / steps), t[0], t[0]))
    assert float(between) == pytest.approx(9.5, abs=1e-3)


def test_conditioning_functions_are_the_definitions(x64):
    at = Level(jnp.array([0.5]), jnp.log(jnp.array([0.6])), jnp.log(jnp.array([0.3])))
    assert float(conditionings.time_conditioning()(at)[0]) == pytest.approx(499.5, rel=1e-12)
    assert float(conditionings.logsnr_conditioning()(at)[0]) == pytest.approx(np.log(4), rel=1e-12)
    assert float(conditionings.log_sigma_conditioning()(at)[0]) == pytest.approx(np.log(0.5) / 4, rel=1e-12)


def test_clip_x0_keeps_the_pair_consistent(x64):
    at = Level(jnp.array([0.5]), jnp.log(jnp.array([0.6])), jnp.log(jnp.array([0.8])))
    x_t = jnp.array([[2.0, 0.3]])
    free = prediction.Prediction(jnp.array([[3.0, 0.2]]), (x_t - 0.6 * jnp.array([[3.0, 0.2]])) / 0.8, None)
    got = prediction.clip_x0(lambda *args: free)(None, x_t, at)
    np.testing.assert_allclose(got.x0, [[1.0, 0.2]], rtol=1e-12)
    np.testing.assert_allclose(0.6 * got.x0 + 0.8 * got.eps, x_t, rtol=1e-12)


def test_dynamic_thresholding_is_saharias_rule_for_each_example(x64):
    """s = max(1, quantile of |x0|) of an example; x0 to [-s, s], over s. With keep_eps eps stays as predicted."""
    random = np.random.default_rng(0)
    at = Level(*(jnp.full(3, value) for value in (0.5, np.log(0.6), np.log(0.8))))
    x0 = random.normal(size=(3, 4, 5)) * np.array([0.2, 1.5, 40.0])[:, None, None]
    x_t = random.normal(size=x0.shape)
    free = prediction.Prediction(jnp.asarray(x0), jnp.asarray((x_t - 0.6 * x0) / 0.8), None)
    for quantile in (0.5, 0.9, 0.995):
        s = np.maximum(np.quantile(np.abs(x0).reshape(3, -1), quantile, axis=1), 1)[:, None, None]
        expected = np.clip(x0, -s, s) / s
        for keep in (False, True):
            got = prediction.clip_x0(lambda *args: free, quantile, keep)(None, jnp.asarray(x_t), at)
            np.testing.assert_allclose(got.x0, expected, rtol=1e-13)
            eps = (x_t - 0.6 * (x0 if keep else expected)) / 0.8
            np.testing.assert_allclose(got.eps, eps, rtol=1e-12, atol=1e-13)
    assert np.abs(expected).max() == 1  # of examples within [-1, 1] it changes nothing
    np.testing.assert_array_equal(got.x0[0], x0[0])


def test_labels_are_dropped_in_training_alone_and_by_the_key_of_each_example():
    labels = []

    def predict(params, x_t, at, label, keys):
        labels.append(label)

    keys = jax.random.split(jax.random.key(0), 2000)
    label = jnp.arange(2000) % 10
    dropping = prediction.drop_labels(predict, 0.2)
    dropping(None, None, None, label, keys)
    dropping(None, None, None, label[::-1], keys[::-1])
    dropping(None, None, None, label, None)
    dropped = np.asarray(labels[0] == -1)
    assert abs(dropped.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)
    np.testing.assert_array_equal(np.where(dropped, -1, label), labels[0])
    np.testing.assert_array_equal(labels[1][::-1], labels[0])
    np.testing.assert_array_equal(labels[2], label)


def test_label_of_the_augmentation_reaches_the_network():
    def apply(variables, x, conditioning, label, keys, *augment):
        return sum((label.sum(1, keepdims=True) for label in augment), jnp.zeros_like(x))

    schedule = schedules.vp()
    made = prediction.make_denoiser(apply, lambda params: schedule, targets.x0(), conditionings.time_conditioning())
    predict, at = prediction.drop_labels(made, 0.5), level(schedule, jnp.full(2, 0.5))
    inputs = {"net": None}, jnp.ones((2, 3)), at, jnp.zeros(2, jnp.int32), jax.random.split(jax.random.key(0), 2)
    label = jnp.array([[1.0, 2], [3, 4]])
    np.testing.assert_allclose(predict(*inputs, label).x0 - predict(*inputs).x0, [[3] * 3, [7] * 3], rtol=1e-5)
