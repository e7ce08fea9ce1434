"""Guidance against the closed forms of a mixture whose components are the classes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import level
from diffusion_jax.sampling import guidance

MIXTURE = oracles.TWO_MODES
T = jnp.linspace(0.05, 1, 6)
AT = level(schedules.vp(), T)
LABEL = jnp.array([0, 1, 1, 0, 1, 0])
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32))


def component(i):
    return oracles.Mixture(np.ones(1), MIXTURE.means[i : i + 1], MIXTURE.covariances[i : i + 1])


def predict(params, x_t, at, label=None, keys=None):
    """The exact conditional model, and the unconditional one for a label of None or -1. params: the sizes of calls."""
    params["calls"].append(len(x_t))
    label = jnp.full(len(x_t), -1) if label is None else label
    found = [oracles.exact(mixture)(x_t, at) for mixture in (MIXTURE, component(0), component(1))]
    return jax.tree.map(lambda *a: jnp.stack(a)[label + 1, jnp.arange(len(x_t))], *found)


def log_probs(params, x_t, at):
    """The exact classifier: log of the posterior probability of each component."""
    logits = [jnp.log(w) + log_density(component(i), at, x_t) for i, w in enumerate(MIXTURE.weights)]
    return jax.nn.log_softmax(jnp.stack(logits, axis=1))


def log_density(gaussian, at, x):
    cov = at.alpha[:, None, None] ** 2 * gaussian.covariances[0] + at.sigma[:, None, None] ** 2 * jnp.eye(2)
    return jax.vmap(jax.scipy.stats.multivariate_normal.logpdf)(x, at.alpha[:, None] * gaussian.means[0], cov)


def call(guided, label=LABEL, x=X, **params):
    calls = []
    at = jax.tree.map(lambda a: a.astype(x.dtype), AT)
    return jax.jit(lambda x, at: guided({"calls": calls, **params}, x, at, label, None))(x, at), calls


def equal(found, wanted):
    for a, b in zip(found[:2], wanted[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_scales_of_one_and_zero_are_the_two_models_to_the_bit():
    """And they cost one call of the batch; every other scale one call of twice the batch."""
    cond, uncond = (call(predict, label)[0] for label in (LABEL, None))
    for scale, wanted in ((1, cond), (0, uncond)):
        found, calls = call(guidance.classifier_free(predict, scale))
        equal(found, wanted)
        assert calls == [6]
    found, calls = call(guidance.classifier_free(predict, 2.0))
    assert calls == [12] and np.abs(found.x0 - cond.x0).max() > 0.01
    worse = {"guide": {"calls": []}}
    blurred = oracles.Mixture(MIXTURE.weights, MIXTURE.means, 2 * MIXTURE.covariances)
    bad = lambda params, x, at, label, keys: oracles.exact(blurred)(x, at)  # noqa: E731
    equal(call(guidance.autoguidance(predict, bad, 1.0), **worse)[0], cond)
    equal(call(guidance.autoguidance(predict, bad, 0.0), **worse)[0], jax.jit(oracles.exact(blurred))(X, AT))
    equal(call(guidance.classifier(predict, log_probs, 0.0), classifier={})[0], cond)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_classifier_free_guidance_is_that_of_the_closed_form(scale, x64):
    """The score of p(x)^(1-w) p(x | c)^w, by differentiation of the log densities."""
    x = X.astype(jnp.float64)
    at = jax.tree.map(lambda a: a.astype(jnp.float64), AT)

    def log_p(x):
        weights = jnp.log(MIXTURE.weights)[:, None]
        each = jnp.stack([log_density(component(i), at, x) for i in range(2)])
        return ((1 - scale) * jax.nn.logsumexp(weights + each, axis=0) + scale * each[LABEL, jnp.arange(6)]).sum()

    score = jax.jit(jax.grad(log_p))(x)
    found, _ = call(guidance.classifier_free(predict, scale), x=x)
    np.testing.assert_allclose(found.eps, -at.sigma[:, None] * score, atol=1e-9)
    np.testing.assert_allclose(at.alpha[:, None] * found.x0 + at.sigma[:, None] * found.eps, x, atol=1e-9)


def test_classifier_guidance_at_scale_one_is_the_conditional_law(x64):
    x = X.astype(jnp.float64)

    def unconditional(params, x_t, at, label, keys):
        return oracles.exact(MIXTURE)(x_t, at)

    found, _ = call(guidance.classifier(unconditional, log_probs, 1.0), x=x, classifier={})
    wanted, _ = call(predict, x=x)
    np.testing.assert_allclose(found.eps / AT.sigma[:, None], wanted.eps / AT.sigma[:, None], atol=1e-9)
    np.testing.assert_allclose(found.x0, wanted.x0, atol=1e-9)


def test_the_interval_leaves_the_rest_alone():
    cond, _ = call(predict)
    inside = (T >= 0.2) & (T <= 0.7)
    assert 0 < inside.sum() < 6
    for guided in (
        guidance.classifier_free(predict, 4.0, (0.2, 0.7), rescale=0.5),
        guidance.classifier(predict, log_probs, 4.0, (0.2, 0.7)),
    ):
        found, _ = call(guided, classifier={})
        np.testing.assert_array_equal(found.x0[~inside], cond.x0[~inside])
        assert np.abs(found.x0 - cond.x0)[inside].max(axis=1).min() > 1e-4


def test_a_classifier_leaves_samples_without_label_alone():
    guided = guidance.classifier(predict, log_probs, 4.0)
    none = jnp.where(jnp.arange(len(LABEL)) % 2, LABEL, -1)
    found, free = call(guided, label=none, classifier={})[0], call(predict, label=none)[0]
    alone = np.asarray(none) < 0
    np.testing.assert_array_equal(found.x0[alone], free.x0[alone])
    assert np.abs(found.x0 - free.x0)[~alone].max() > 1e-4


def test_rescaling_keeps_what_has_no_deviation_and_what_is_not_guided():
    flat = Prediction(jnp.full((2, 3), 0.5), jnp.ones((2, 3)), None)
    at = level(schedules.vp(), jnp.array([0.1, 0.5]))
    guided = guidance.extrapolate(lambda *args: (flat, flat), 3.0, (0.3, 0.7), rescale=1.0)
    found = guided(None, jnp.ones((2, 3)), at, None, None)
    np.testing.assert_array_equal(found.x0, flat.x0)
    np.testing.assert_array_equal(found.eps[0], flat.eps[0])


def test_rescaling_gives_back_the_standard_deviation():
    strong = Prediction(jnp.array([[1.0, -1.0, 0.0]]), jnp.zeros((1, 3)), None)
    weak = Prediction(jnp.array([[0.5, 0.0, 0.0]]), jnp.zeros((1, 3)), None)
    at = level(schedules.vp(), jnp.array([0.5]))
    x = jnp.ones((1, 3))
    stds = []
    for rescale in (0.0, 0.5, 1.0):
        guided = guidance.extrapolate(lambda *args: (strong, weak), 3.0, rescale=rescale)
        found = guided(None, x, at, None, None)
        stds.append(float(found.x0.std()))
        if rescale:
            np.testing.assert_allclose(at.alpha * found.x0 + at.sigma * found.eps, x, rtol=1e-5)
    assert stds[2] == pytest.approx(float(strong.x0.std()), rel=1e-5)
    assert stds[1] == pytest.approx((stds[0] + stds[2]) / 2, rel=1e-5)
