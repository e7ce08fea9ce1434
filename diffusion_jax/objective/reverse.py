"""The model's kernel p(x_s | x_t): the posterior with the predicted x0 in the place of x0, and a choice of variance.

`reverse(row, prediction, x_t) -> (mean[B,*D], log_var)`; the bound and every stochastic sampler use the same kernel.
"""

from collections.abc import Callable

import jax.numpy as jnp

from diffusion_jax.objective.prediction import Prediction, log_rate
from diffusion_jax.process.base import Array, Process, expand
from diffusion_jax.process.gaussian import GaussianCoefficients

Reverse = Callable[[GaussianCoefficients, Prediction, Array], tuple[Array, Array]]


def fixed_small(process: Process) -> Reverse:
    """The posterior's own variance (beta-tilde). Source: Ho et al. 2020, section 3.2."""
    return lambda row, prediction, x_t: process.posterior(row, prediction.x0, x_t)


def fixed_large(process: Process, noiseless: str = "posterior") -> Reverse:
    """The variance sigma_ts² of the forward step (beta). Source: Ho et al. 2020, section 3.2.

    noiseless says which variance the step to a noiseless s has, which only the bound sees: "posterior", that of the
    step before it, as in Ho's code and in every config; or "forward", sigma_ts² there too, which closed forms want.
    """
    if noiseless not in ("posterior", "forward"):
        raise ValueError(f"reverse: noiseless={noiseless!r} is not known, use 'posterior' or 'forward'")

    def reverse(row: GaussianCoefficients, prediction: Prediction, x_t: Array) -> tuple[Array, Array]:
        mean, small = process.posterior(row, prediction.x0, x_t)
        large = expand(row.log_var_large, x_t)
        if noiseless == "posterior":
            large = jnp.where(jnp.isneginf(expand(row.to.log_sigma, x_t)), small, large)
        return mean, large

    return reverse


def learned_diagonal(process: Process) -> Reverse:
    """The network's head is the log variance itself. Source: Ho et al. 2020, table 2."""
    return lambda row, prediction, x_t: (process.posterior(row, prediction.x0, x_t)[0], prediction.head)


def learned_range(process: Process) -> Reverse:
    """The head w in about [-1,1] interpolates in the logarithm between the small and the large variance.

    log var = f log_var_large + (1 - f) log_var_small with f = (w + 1)/2. Source: Nichol and Dhariwal 2021, eq. 15.
    """

    def reverse(row: GaussianCoefficients, prediction: Prediction, x_t: Array) -> tuple[Array, Array]:
        mean, small = process.posterior(row, prediction.x0, x_t)
        fraction = (prediction.head + 1) / 2
        return mean, fraction * expand(row.log_var_large, x_t) + (1 - fraction) * small

    return reverse


def dpm2015_paper(process: Process) -> Reverse:
    """var = sigmoid(head + logit beta), beta = sigma_ts². Source: Sohl-Dickstein et al. 2015, appendix D.2.1."""
    return lambda row, prediction, x_t: (
        process.posterior(row, prediction.x0, x_t)[0],
        log_rate(expand(row.log_var_large, x_t), prediction.head),
    )


def dpm2015_code(process: Process) -> Reverse:
    """var = sigmoid(head / sqrt(T) + logit beta), 1/T being the length of the step. Source: their public code."""

    def reverse(row: GaussianCoefficients, prediction: Prediction, x_t: Array) -> tuple[Array, Array]:
        head = prediction.head * expand(jnp.sqrt(row.at.t - row.to.t), x_t)
        return process.posterior(row, prediction.x0, x_t)[0], log_rate(expand(row.log_var_large, x_t), head)

    return reverse


VARIANCES: dict[str, Callable[..., Reverse]] = {
    "fixed_small": fixed_small,
    "fixed_large": fixed_large,
    "learned_diagonal": learned_diagonal,
    "learned_range": learned_range,
    "dpm2015_paper": dpm2015_paper,
    "dpm2015_code": dpm2015_code,
}
"""Kinds of reverse variance; the learned ones need a network with a head."""
