"""Importance-weighted bound from many paths: -log p(x0) <= E[-log mean_k w_k].

    w = p(x_1, …, x_s, x_t, …, x0) / q(x_1, …, x_s, x_t, … | x0),      a whole path drawn from q given x0.

The bound is tighter the more paths; for one path it is the VLB.

Reference: Burda et al. 2016, eq. 8, with the path as the latent variable.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.likelihood.variational import standard_error, to_bits
from diffusion_jax.objective.bound import decoder_nll
from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.prediction import Denoiser
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import (
    Array,
    CoefficientsFromParams,
    Process,
    ScheduleFromParams,
    expand,
    fold_all,
    level,
    normal,
)

PathWeights = Callable[..., Array]
"""-log w in nats [B] of one path per example: (params, keys [B], x0 [B,*D] in the model's range, label [B] or None)."""


def make_path_weights(
    predict: Denoiser,
    process: Process,
    schedule: ScheduleFromParams,
    reverse: Reverse,
    decode: Decoder,
    coefficients: CoefficientsFromParams,
) -> PathWeights:
    """Make the function that computes path weights, for a Gaussian process.

    The path is drawn from x_1 ~ q(x_1 | x0) down, x_s ~ q(x_s | x_t, x0), in one scan; step i of the grid draws from
    fold_in(key, i + 1).

    Args:
        predict: the denoiser.
        process: a Gaussian process.
        schedule: params -> Schedule.
        reverse: the reverse kernel.
        decode: the decoder of the last step.
        coefficients: params -> coefficients of the steps, from t = 1 to the step without noise.
    """

    def path_weights(params: Any, keys: Array, x0: Array, label: Array | None = None) -> Array:
        size = len(x0)
        steps = coefficients(params)

        def noise_of(i: Array) -> Array:
            return normal(fold_all(keys, i), x0.shape[1:], x0.dtype)

        def body(carry: tuple[Array, Array], inputs: tuple[Array, Any]) -> tuple[tuple[Array, Array], None]:
            x_t, nats = carry
            i, step = inputs
            step = jax.tree.map(lambda field: jnp.broadcast_to(field, (size,)), step)
            model = reverse(step, predict(params, x_t, step.at, label, None), x_t)
            true = process.posterior(step, x0, x_t)
            noise = noise_of(i)
            x_s = true[0] + jnp.exp(0.5 * true[1]) * noise
            noiseless = jnp.isneginf(step.to.log_sigma)
            term = jnp.where(noiseless, decoder_nll(decode, step, model, x0, x_t), _log_ratio(true, model, noise))
            return (jnp.where(expand(noiseless, x_t), x_t, x_s), nats + term), None

        end = level(schedule(params), jnp.ones(size, x0.dtype))
        noise = noise_of(jnp.zeros((), jnp.int32))
        x_1 = process.corrupt(end, x0, noise)
        prior = 0 * x0, expand(jnp.logaddexp(2 * end.log_alpha, 2 * end.log_sigma), x0)
        true = expand(end.alpha, x0) * x0, expand(2 * end.log_sigma, x0)
        cast = jax.tree.map(lambda field: jnp.asarray(field, x0.dtype), steps)
        numbered = jnp.arange(1, len(steps.at.t) + 1), cast
        (_, nats), _ = jax.lax.scan(body, (x_1, _log_ratio(true, prior, noise)), numbered)
        return nats

    return path_weights


def _log_ratio(q: tuple[Array, Array], p: tuple[Array, Array], noise: Array) -> Array:
    """Return log q(x) - log p(x) of two normal distributions in nats [B].

    x = mean_q + std_q noise, q and p are (mean, log variance), and with d = (mean_q - mean_p)/sqrt(v_p)

    1/2 (log v_p - log v_q + (v_q/v_p - 1) noise² + 2 d sqrt(v_q/v_p) noise + d²).
    """
    ratio = q[1] - p[1]
    apart = (q[0] - p[0]) * jnp.exp(-0.5 * p[1])
    nats = 0.5 * (jnp.expm1(ratio) * noise**2 - ratio) + apart * (jnp.exp(0.5 * ratio) * noise + 0.5 * apart)
    return nats.reshape(len(noise), -1).sum(1)


def summarise(nats: np.ndarray, numbers: Sequence[int], dims: int) -> dict[str, float]:
    """Return the bounds in bits/dim for each number K of paths, in float64.

    The paths of an example are split into groups of K, over which the bound is averaged: every K uses all paths, and if
    each K divides the next no example's bound rises.

    Args:
        nats: -log w of the paths, [examples, paths].
        numbers: the numbers K.
        dims: dimensions of an example.

    Returns:
        multi_bits_per_dim_K and multi_gain_bits_per_dim_K, the difference to the first K, each with a standard error
        over the examples (_stderr).
    """
    result: dict[str, float] = {}
    per_k = {k: to_bits(importance_bound(nats, k), dims) for k in numbers}
    first = per_k[numbers[0]]
    for k, bits in per_k.items():
        result[f"multi_bits_per_dim_{k}"] = float(bits.mean())
        result[f"multi_bits_per_dim_{k}_stderr"] = float(standard_error(bits))
        if bits is not first:
            result[f"multi_gain_bits_per_dim_{k}"] = float((first - bits).mean())
            result[f"multi_gain_bits_per_dim_{k}_stderr"] = float(standard_error(first - bits))
    return result


def importance_bound(nats: np.ndarray, k: int) -> np.ndarray:
    """Return -log mean of k weights, averaged over groups of k paths.

    nats: -log w of the paths, [examples, paths]. The result is [examples].
    """
    groups = np.asarray(nats, np.float64).reshape(len(nats), -1, k)
    least = groups.min(2, keepdims=True)
    return (least[..., 0] - np.log(np.exp(least - groups).mean(2))).mean(1)
