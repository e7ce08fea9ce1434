"""The evidence lower bound against linear-Gaussian models, whose likelihood has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_models import gaussian

from diffusion_jax.likelihood import path_bound
from diffusion_jax.objective import decoders, elbo

W = np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 0.0]]) @ np.array([[0.6, -0.8], [0.8, 0.6]])
"""Loadings of x = W z + w + noise; W^T W is not diagonal, and so neither is the exact posterior."""
SHIFT, VAR = np.array([0.3, -0.1, 0.2]), 0.25
EXACT = gaussian(SHIFT, W @ W.T + VAR * np.eye(3))
X = np.random.default_rng(0).normal(size=(5, 3))


def terms(w, encoder_log_var, scale=1.0):
    """Terms with the exact posterior's mean (times scale), and a diagonal variance, for loadings w."""
    gain = np.linalg.inv(w.T @ w + VAR * np.eye(2)) @ w.T

    def encode(params, x, keys):
        return scale * (x - SHIFT) @ gain.T, jnp.broadcast_to(jnp.asarray(encoder_log_var), (len(x), 2))

    def decode(params, z, keys):
        return z @ w.T + SHIFT, jnp.full((len(z), 3), np.log(VAR))

    return elbo.make_terms(encode, decode, decoders.density())


def keys(number):
    return jax.random.split(jax.random.key(0), number)


def test_every_draw_gives_the_likelihood_where_q_is_the_posterior(x64):
    w = np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 0.0]])  # whose posterior is diagonal
    found = terms(w, np.log(VAR / (np.diag(w.T @ w) + VAR)))(None, jnp.asarray(X), keys(5))
    exact = gaussian(SHIFT, w @ w.T + VAR * np.eye(3))(X)
    np.testing.assert_allclose(found.nll + found.log_ratio, exact, rtol=1e-12)


def closed_form(log_var, scale):
    """E_q[-log p(x | z)] and the KL, both in nats [B], of `terms(W, log_var, scale)`."""
    gain = np.linalg.inv(W.T @ W + VAR * np.eye(2)) @ W.T
    mean = scale * (X - SHIFT) @ gain.T
    error = ((X - SHIFT - mean @ W.T) ** 2).sum(1) + np.exp(log_var) * np.trace(W.T @ W)
    nll = 0.5 * (error / VAR + 3 * np.log(2 * np.pi * VAR))
    return nll, 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum(1)


def test_terms_and_loss_are_the_closed_forms(x64):
    draws, log_var = 40_000, -1.2
    x = jnp.repeat(jnp.asarray(X), draws, axis=0)
    batch, t = {"x0": x}, jnp.ones(len(x))
    make = terms(W, log_var, scale=0.7)
    loss, metrics = jax.jit(elbo.elbo(make, beta=3.0))(None, batch, t, keys(len(x)))
    nll, kl = closed_form(log_var, 0.7)
    in_bits = 1 / (3 * np.log(2))
    np.testing.assert_allclose(metrics["kl"].reshape(5, draws)[:, 0], kl * in_bits, rtol=1e-12)
    spread = np.asarray(metrics["nll"]).reshape(5, draws)
    assert np.all(np.abs(spread.mean(1) - nll * in_bits) < 5 * spread.std(1) / draws**0.5)
    np.testing.assert_allclose(loss, metrics["nll"] + 3 * metrics["kl"], rtol=1e-12)


def test_importance_weighted_bounds_fall_to_the_likelihood(x64):
    draws = 4096
    found = jax.jit(terms(W, -0.5, scale=0.7))(None, jnp.repeat(jnp.asarray(X), draws, axis=0), keys(5 * draws))
    nats = np.asarray(found.nll + found.log_ratio).reshape(5, draws)
    bounds = [path_bound.importance_bound(nats, k) - EXACT(X) for k in (1, 16, 4096)]
    assert np.all(bounds[0] > 10 * bounds[1]) and bounds[1].mean() > abs(bounds[2].mean())
    weights = np.exp(EXACT(X)[:, None] - nats)  # their mean is 1
    assert np.all(np.abs(weights.mean(1) - 1) < 5 * weights.std(1) / draws**0.5)


@pytest.mark.parametrize("name", ["bins", "density"])
def test_kl_is_per_latent_and_reconstruction_has_the_shape_of_a_row(name):
    decode = decoders.DECODERS[name](17)
    made = elbo.make_terms(lambda p, x, k: (x[:, :2], x[:, :2]), lambda p, z, k: (z[:, :1], z[:, 1:]), decode)
    found = made(None, jnp.zeros((3, 2)), keys(3))
    assert found.kl.shape == (3, 2) and found.nll.shape == found.log_ratio.shape == found.mse.shape == (3,)


def test_squared_error_is_that_of_clipped_means():
    def mse(clip):
        inner = elbo.make_terms(lambda p, x, k: (0 * x, 0 * x), lambda p, z, k: (0 * z + 5, 0 * z), DECODE, clip)
        return inner(None, jnp.full((3, 2), 0.5), keys(3)).mse

    np.testing.assert_allclose(mse(True), 0.25)
    np.testing.assert_allclose(mse(False), 4.5**2)


DECODE = decoders.bins(17)
