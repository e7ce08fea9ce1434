"""Langevin dynamics at one level, as a corrector and as a sampler.

The dynamics are x <- x + e score + sqrt(2 e) noise. A step leaves the marginal of its level unchanged up to O(e). Its
size is

    e = 2 a (snr |noise|/|score|)²,

with a = (alpha_t/alpha_s)² of a forward step of the grid: 1 for VE, 1 - beta_k for a chain, and so for sub-VP as well.
The norms are computed for each sample; the paper's code averages them over the batch, which makes a sample depend on
its neighbours. norms="expected" replaces |noise|/|score| by its expectation sigma. A sample's own norms vary with x,
which biases the marginal by O(1/D) in D dimensions.
Reference: Song et al. 2021, algorithms 4 and 5.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.process.base import Array, StepCoefficients, expand, fold_all, normal, split_all
from diffusion_jax.sampling.base import BoundDenoiser, SamplerStep
from diffusion_jax.sampling.ddpm import ancestral
from diffusion_jax.sampling.sde_steps import euler_maruyama, reverse_diffusion

NORMS = ("example", "expected")
PREDICTORS: dict[str, Callable[[], SamplerStep]] = {
    "reverse_diffusion": reverse_diffusion,
    "euler_maruyama": euler_maruyama,
    "ancestral": ancestral,
}


def predictor_corrector(
    predictor: str = "reverse_diffusion", snr: float = 0.16, steps: int = 1, norms: str = "example"
) -> SamplerStep:
    """Predictor-corrector sampling: a predictor step, then Langevin dynamics.

    The dynamics run at the level at which the predictor step ends. 1 + steps network calls per step; 1 at a step that
    ends without noise, where there is no corrector.

    Args:
        predictor: "reverse_diffusion", "euler_maruyama" or "ancestral".
        snr: signal-to-noise ratio of a step of Langevin dynamics.
        steps: steps of Langevin dynamics per level.
        norms: "example" or "expected", see above.

    Raises ValueError for other options. Reference: Song et al. 2021, algorithm 1 (their code has the corrector first).
    """
    if predictor not in PREDICTORS:
        raise ValueError(
            f"sampler.predictor_corrector.predictor={predictor!r} is not known; use one of {', '.join(PREDICTORS)}"
        )
    _check("predictor_corrector", snr, steps, norms)

    def corrected(method: SamplerStep) -> SamplerStep:
        predictor_step = method.step
        assert predictor_step is not None

        def step(
            denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
        ) -> tuple[Array, Any]:
            keys_predictor, keys_corrector = split_all(keys)
            x, carry = predictor_step(denoise, reverse, coefficients, x, carry, keys_predictor)
            noiseless = jnp.isneginf(coefficients.to.log_sigma[0])
            return jax.lax.cond(
                noiseless, lambda: x, lambda: _langevin(denoise, coefficients, x, keys_corrector, snr, steps, norms)
            ), carry

        from_noise = None if method.from_noise is None else corrected(method.from_noise)
        return method._replace(step=step, kernel_only=False, needs_score=True, from_noise=from_noise)

    return corrected(PREDICTORS[predictor]())


def annealed_langevin(
    snr: float = 0.05**0.5, steps: int = 100, norms: str = "expected", at_start: bool = False
) -> SamplerStep:
    """Annealed Langevin dynamics: Langevin dynamics at each level in turn, without a predictor.

    A step that ends without noise takes the predicted x0. `steps` network calls per step, one at that last step.

    Args:
        snr: signal-to-noise ratio of a step; the default is NCSN's e = 1e-5 sigma²/0.01² (its alpha_i is 2 e).
        steps: steps per level.
        norms: "example" or "expected", see above.
        at_start: whether to take steps at t = 1 too, which a draw from the prior needs only where the noise is too
            little to hide the data, as with NCSN's schedule.

    Raises ValueError for other options. Reference: Song and Ermon 2019, algorithm 1; for the last step
    Jolicoeur-Martineau et al. 2021.
    """
    _check("annealed_langevin", snr, steps, norms)

    def step(
        denoise: BoundDenoiser, reverse: Any, coefficients: StepCoefficients, x: Array, carry: Any, keys: Array
    ) -> tuple[Array, Any]:
        last = jnp.isneginf(coefficients.to.log_sigma[0])
        here_first = jnp.where(last, 1, jnp.where(at_start & (coefficients.at.t[0] == 1), steps, 0))

        def one(i: Array, x: Array) -> Array:  # the network is compiled once for both levels
            here = jax.tree.map(lambda at, to: jnp.where(i < here_first, at, to), coefficients.at, coefficients.to)
            prediction = denoise(x, here)
            return jnp.where(
                last, prediction.x0, _move(prediction.eps, here.sigma, coefficients, x, keys, i, snr, norms)
            )

        return jax.lax.fori_loop(0, jnp.where(last, 1, here_first + steps), one, x), carry

    return SamplerStep(step)


def _check(name: str, snr: float, steps: int, norms: str) -> None:
    if norms not in NORMS:
        raise ValueError(f"sampler.{name}.norms={norms!r} is not known; use one of {', '.join(NORMS)}")
    if not snr > 0 or steps < 1:
        raise ValueError(f"sampler.{name}: snr={snr} must be above 0 and steps={steps} at least 1")


def _langevin(
    denoise: BoundDenoiser, coefficients: StepCoefficients, x: Array, keys: Array, snr: float, steps: int, norms: str
) -> Array:
    """Return x after `steps` of Langevin dynamics at the level where the step ends."""

    def one(i: Array, x: Array) -> Array:
        return _move(denoise(x, coefficients.to).eps, coefficients.to.sigma, coefficients, x, keys, i, snr, norms)

    return jax.lax.fori_loop(0, steps, one, x)


def _move(
    eps: Array, sigma: Array, coefficients: StepCoefficients, x: Array, keys: Array, i: Array, snr: float, norms: str
) -> Array:
    """Return x after step i of Langevin dynamics at a level with noise sigma."""

    def norm(values: Array) -> Array:
        return jnp.sqrt(jnp.square(values).reshape(len(values), -1).sum(1))

    noise = normal(fold_all(keys, i), x.shape[1:], x.dtype)
    size = 2 * snr**2 * jnp.exp(-2 * coefficients.log_alpha_ratio) * sigma**2
    if norms == "example":
        size = size * (norm(noise) / norm(eps)) ** 2
    return x - expand(size / sigma, x) * eps + expand(jnp.sqrt(2 * size), x) * noise
