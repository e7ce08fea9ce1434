"""Data with a denoiser in closed form, for tests without a network.

For x0 ~ sum_i w_i N(m_i, C_i) and x_t = alpha x0 + sigma eps, E[x0 | x_t] is a mixture of linear estimates,

    E_i[x0 | x_t] = m_i + alpha C_i (alpha² C_i + sigma² I)^-1 (x_t - alpha m_i),

weighted by the posterior probability of component i.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.prediction import Prediction


class Mixture(NamedTuple):
    """Mixture of Gaussians: weights [K], means [K,D], covariances [K,D,D]."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def mean(self):
        return self.weights @ self.means

    @property
    def covariance(self):
        d = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances) + np.einsum("k,ki,kj->ij", self.weights, d, d)


GAUSSIAN = Mixture(np.ones(1), np.array([[0.7, -0.4]]), np.array([[[1.3, 0.5], [0.5, 0.4]]]))
TWO_MODES = Mixture(
    np.array([0.3, 0.7]),
    np.array([[-1.2, 0.5], [0.9, -0.3]]),
    np.array([[[0.1, 0.03], [0.03, 0.2]], [[0.3, -0.1], [-0.1, 0.15]]]),
)


def denoise(mixture, level, x_t):
    """Return E[x0 | x_t] for x_t [B,D] and levels [B]."""
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    estimates, log_weights = [], []
    for weight, mean, covariance in zip(*mixture, strict=True):
        variances, axes = np.linalg.eigh(covariance)  # in these axes every covariance here is diagonal
        offset = (x_t - alpha * mean) @ axes
        marginal = alpha**2 * variances + sigma**2
        estimates.append(mean + (alpha * variances / marginal * offset) @ axes.T)
        log_weights.append(jnp.log(weight) - 0.5 * jnp.sum(jnp.log(marginal) + offset**2 / marginal, 1))
    posterior = jax.nn.softmax(jnp.stack(log_weights), axis=0)
    return jnp.einsum("kb,kbd->bd", posterior, jnp.stack(estimates))


def log_density(mixture, level, x_t):
    """Return log p(x_t) [B] for x_t [B,D], of the marginal sum_i w_i N(alpha m_i, alpha² C_i + sigma² I)."""
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    logs = []
    for weight, mean, covariance in zip(*mixture, strict=True):
        variances, axes = np.linalg.eigh(covariance)
        offset = (x_t - alpha * mean) @ axes
        marginal = alpha**2 * variances + sigma**2
        logs.append(jnp.log(weight) - 0.5 * jnp.sum(jnp.log(2 * np.pi * marginal) + offset**2 / marginal, 1))
    return jax.nn.logsumexp(jnp.stack(logs), axis=0)


def draw(mixture, number, seed=0):
    """Draw x0, float64 [number, D]."""
    rng = np.random.default_rng(seed)
    component = rng.choice(len(mixture.weights), number, p=mixture.weights)
    roots = np.linalg.cholesky(mixture.covariances)[component]
    return mixture.means[component] + np.einsum("nij,nj->ni", roots, rng.normal(size=(number, mixture.means.shape[1])))


def exact(mixture):
    """Return the exact denoiser `predict(x_t, level) -> Prediction`."""

    def predict(x_t, level):
        x0 = denoise(mixture, level, x_t)
        return Prediction(x0, (x_t - level.alpha[:, None] * x0) / level.sigma[:, None], None)

    return predict
