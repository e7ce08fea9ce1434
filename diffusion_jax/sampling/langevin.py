"""Langevin dynamics at one level, x <- x + e score + sqrt(2 e) noise, which leaves its marginal unchanged up to O(e).

The step e = 2 a (snr |noise|/|score|)², a the factor alpha² of one forward step of the grid, (alpha_t/alpha_s)²: 1 for
VE, 1 - beta_k for a chain, and so for sub-VP as well. Norms are an example's own where the paper's code averages them
over the batch, which would make a sample depend on its neighbours; "expected" puts in what they are on average over
noise, |noise|/|score| = sigma. An example's own norms vary with x, which biases the marginal by O(1/D) in D dimensions.
Source: Song et al. 2021, algorithms 4 and 5.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, expand, normal
from diffusion_jax.sampling.ancestral import ancestral
from diffusion_jax.sampling.loop import BoundPredict, Method
from diffusion_jax.sampling.sde import euler_maruyama, reverse_diffusion

NORMS = ("example", "expected")
PREDICTORS: dict[str, Callable[[], Method]] = {
    "reverse_diffusion": reverse_diffusion,
    "euler_maruyama": euler_maruyama,
    "ancestral": ancestral,
}


def predictor_corrector(
    predictor: str = "reverse_diffusion", snr: float = 0.16, steps: int = 1, norms: str = "example"
) -> Method:
    """A step of a predictor, then `steps` of Langevin dynamics at the level it arrives at, if that has noise.

    Source: Song et al. 2021, algorithm 1 (their code has the corrector first). 1 + steps network calls, 1 at a step
    that ends without noise. Raises ValueError for options that are not known.
    """
    if predictor not in PREDICTORS:
        raise ValueError(
            f"sampler.predictor_corrector.predictor={predictor!r} is not known; use one of {', '.join(PREDICTORS)}"
        )
    _check("predictor_corrector", snr, steps, norms)
    method = PREDICTORS[predictor]()

    def step(
        predict: BoundPredict, reverse: Reverse, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        keys_predictor, keys_corrector = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        x, memory = method.step(predict, reverse, row, x, memory, keys_predictor)
        noiseless = jnp.isneginf(row.to.log_sigma[0])
        return jax.lax.cond(
            noiseless, lambda: x, lambda: _langevin(predict, row, x, keys_corrector, snr, steps, norms)
        ), memory

    return method._replace(step=step, score=True)


def annealed_langevin(
    snr: float = 0.05**0.5, steps: int = 100, norms: str = "expected", at_start: bool = False
) -> Method:
    """No predictor: `steps` of Langevin dynamics at each level in turn; a step that ends without noise takes x0.

    at_start: also at t = 1, before the first step, which a draw from the prior does not need unless the noise there is
    too little to hide the data, as with NCSN's.
    The defaults are NCSN's: e = 1e-5 sigma²/0.01² at 100 steps a level (its alpha_i is 2 e). Source: Song and Ermon
    2019, algorithm 1; the last step: Jolicoeur-Martineau et al. 2021. `steps` network calls, one at the last step.
    Raises ValueError for options that are not known.
    """
    _check("annealed_langevin", snr, steps, norms)

    def step(
        predict: BoundPredict, reverse: Reverse | None, row: Any, x: Array, memory: Any, keys: Array
    ) -> tuple[Array, Any]:
        last = jnp.isneginf(row.to.log_sigma[0])
        here_first = jnp.where(last, 1, jnp.where(at_start & (row.at.t[0] == 1), steps, 0))

        def one(i: Array, x: Array) -> Array:  # the network stands once in the program, whatever it is asked for
            here = jax.tree.map(lambda at, to: jnp.where(i < here_first, at, to), row.at, row.to)
            found = predict(x, here)
            return jnp.where(last, found.x0, _move(found.eps, here.sigma, row, x, keys, i, snr, norms))

        return jax.lax.fori_loop(0, jnp.where(last, 1, here_first + steps), one, x), memory

    return Method(step)


def _check(name: str, snr: float, steps: int, norms: str) -> None:
    if norms not in NORMS:
        raise ValueError(f"sampler.{name}.norms={norms!r} is not known; use one of {', '.join(NORMS)}")
    if not snr > 0 or steps < 1:
        raise ValueError(f"sampler.{name}: snr={snr} must be above 0 and steps={steps} at least 1")


def _langevin(predict: BoundPredict, row: Any, x: Array, keys: Array, snr: float, steps: int, norms: str) -> Array:
    """`steps` of Langevin dynamics at the level where the row ends."""

    def one(i: Array, x: Array) -> Array:
        return _move(predict(x, row.to).eps, row.to.sigma, row, x, keys, i, snr, norms)

    return jax.lax.fori_loop(0, steps, one, x)


def _move(eps: Array, sigma: Array, row: Any, x: Array, keys: Array, i: Array, snr: float, norms: str) -> Array:
    """x after step number i of Langevin dynamics at a level with noise sigma."""

    def norm(values: Array) -> Array:
        return jnp.sqrt(jnp.square(values).reshape(len(values), -1).sum(1))

    noise = normal(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i), x.shape[1:], x.dtype)
    size = 2 * snr**2 * jnp.exp(-2 * row.log_alpha_ratio) * sigma**2
    if norms == "example":
        size = size * (norm(noise) / norm(eps)) ** 2
    return x - expand(size / sigma, x) * eps + expand(jnp.sqrt(2 * size), x) * noise
