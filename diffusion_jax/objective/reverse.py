"""Reverse kernels p(x_s | x_t): the posterior of the predicted x0, and a choice of variance.

The bound and every stochastic sampler use the same kernel.
"""

from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.objective.targets import log_sigmoid_rate
from diffusion_jax.process.base import Array, Distribution, Process, StepCoefficients, expand
from diffusion_jax.process.gaussian import GaussianCoefficients


class Reverse(Protocol):
    """Reverse kernel p(x_s | x_t) of a step t -> s."""

    def __call__(self, coefficients: StepCoefficients, prediction: Prediction, x_t: Array, /) -> Distribution:
        """Return the distribution of x_s, (mean[B,*D], log_var) for a Gaussian process.

        coefficients: of the step, fields [B]. prediction: of the denoiser at x_t and t.
        """


def fixed_small(process: Process) -> Reverse:
    """Reverse kernel with the posterior variance (beta-tilde); of levels the mixture of their posteriors.

    Reference: Ho et al. 2020, section 3.2.
    """

    def reverse(coefficients: StepCoefficients, prediction: Prediction, x_t: Array) -> Distribution:
        belief = prediction.x0 if prediction.log_probs is None else jnp.exp(prediction.log_probs)
        return process.posterior(coefficients, belief, x_t)

    return reverse


@declare(gaussian=True)
def fixed_large(process: Process, noiseless: str = "posterior") -> Reverse:
    """Reverse kernel with the variance sigma_ts² of the forward step (beta). Reference: Ho et al. 2020, section 3.2.

    noiseless: the variance of the step to a noiseless s, which only the bound uses: "posterior", the posterior variance
    of the step before, as in Ho's code and in every config; or "forward", sigma_ts² there too, as closed forms need it.
    Raises ValueError for another value.
    """
    if noiseless not in ("posterior", "forward"):
        raise ValueError(f"reverse: unknown noiseless={noiseless!r}. Use 'posterior' or 'forward'")

    def reverse(coefficients: GaussianCoefficients, prediction: Prediction, x_t: Array) -> tuple[Array, Array]:
        mean, small = process.posterior(coefficients, prediction.x0, x_t)
        large = expand(coefficients.log_var_large, x_t)
        if noiseless == "posterior":
            large = jnp.where(jnp.isneginf(expand(coefficients.to.log_sigma, x_t)), small, large)
        return mean, large

    return reverse


@declare(gaussian=True, head=True, single_steps=True)
def learned_diagonal(process: Process) -> Reverse:
    """Reverse kernel whose log variance is the network's head. Reference: Ho et al. 2020, table 2."""
    return lambda coefficients, prediction, x_t: (
        process.posterior(coefficients, prediction.x0, x_t)[0],
        prediction.head,
    )


@declare(gaussian=True, head=True)
def learned_range(process: Process) -> Reverse:
    """Reverse kernel whose log variance the head interpolates between small and large.

    With the head w in about [-1,1], log var = f log_var_large + (1 - f) log_var_small with f = (w + 1)/2.
    Reference: Nichol and Dhariwal 2021, eq. 15.
    """

    def reverse(coefficients: GaussianCoefficients, prediction: Prediction, x_t: Array) -> tuple[Array, Array]:
        mean, small = process.posterior(coefficients, prediction.x0, x_t)
        fraction = (prediction.head + 1) / 2
        return mean, fraction * expand(coefficients.log_var_large, x_t) + (1 - fraction) * small

    return reverse


@declare(gaussian=True, head=True, family="dpm2015_paper")
def dpm2015_paper(process: Process) -> Reverse:
    """Reverse kernel with var = sigmoid(head + logit beta), beta = sigma_ts².

    Reference: Sohl-Dickstein et al. 2015, appendix D.2.1.
    """
    return lambda coefficients, prediction, x_t: (
        process.posterior(coefficients, prediction.x0, x_t)[0],
        log_sigmoid_rate(expand(coefficients.log_var_large, x_t), prediction.head),
    )


@declare(gaussian=True, head=True)
def dpm2015_code(process: Process) -> Reverse:
    """Reverse kernel with var = sigmoid(head / sqrt(T) + logit beta), beta = sigma_ts².

    1/T is the length of the step. Reference: the public code of Sohl-Dickstein et al. 2015.
    """

    def reverse(coefficients: GaussianCoefficients, prediction: Prediction, x_t: Array) -> tuple[Array, Array]:
        head = prediction.head * expand(jnp.sqrt(coefficients.at.t - coefficients.to.t), x_t)
        mean = process.posterior(coefficients, prediction.x0, x_t)[0]
        return mean, log_sigmoid_rate(expand(coefficients.log_var_large, x_t), head)

    return reverse


VARIANCES: dict[str, Callable[..., Reverse]] = {
    "fixed_small": fixed_small,
    "fixed_large": fixed_large,
    "learned_diagonal": learned_diagonal,
    "learned_range": learned_range,
    "dpm2015_paper": dpm2015_paper,
    "dpm2015_code": dpm2015_code,
}
"""Reverse kernels by the name of their variance."""
