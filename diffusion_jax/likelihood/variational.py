"""How many bits does the model need for held-out data, and for what? The bound, step by step, with rate and distortion.

Send x_1, then x_s given x_t for each step of a falling grid, and at last what is left of x0 (Ho et al. 2020, section
4.3): after some steps the *rate* so far has been spent, and the receiver's best estimate of x0 has some *distortion*.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective import bound
from diffusion_jax.objective.prediction import Denoiser
from diffusion_jax.process.base import Array, Process, Schedule, normal


class Terms(NamedTuple):
    """Of each example, what the bound is made of. N steps: those of a grid, the last one to x0 itself."""

    prior: Any
    """L_T in nats [B]."""
    steps: Any
    """The term of each step in nats [B,N]; the last is the decoder's."""
    mse: Any
    """(x0 - predicted x0)² in the model's range, a mean over dimensions [B,N], where each step starts."""


def make_terms(
    predict: Denoiser, process: Process, schedule: Callable[[Any], Schedule], step_term: bound.StepTerm, rows: Any
) -> Callable[..., Terms]:
    """Build `terms(params, key, batch) -> Terms`, one draw of x_t per step and example.

    batch: {"x0": float [B,*D], "label", "index": int [B]}. The noise follows from the key and each index.
    Source: Ho et al. 2020, eq. 5.
    """

    def terms(params: Any, key: Array, batch: dict[str, Array]) -> Terms:
        x0, size = batch["x0"], len(batch["x0"])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"])

        def one(_: None, inputs: tuple[Array, Any]) -> tuple[None, tuple[Array, Array]]:
            i, row = inputs
            row = jax.tree.map(lambda field: jnp.broadcast_to(field, (size,)), row)
            noise = normal(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i), x0.shape[1:], x0.dtype)
            x_t = process.corrupt(row.at, x0, noise)
            prediction = predict(params, x_t, row.at, batch["label"], None)
            mse = jnp.square(prediction.x0 - x0).reshape(size, -1).mean(1)
            return None, (step_term(row, prediction, x0, x_t), mse)

        numbered = jnp.arange(len(rows.at.t)), jax.tree.map(lambda field: jnp.asarray(field, x0.dtype), rows)
        _, (nats, mse) = jax.lax.scan(one, None, numbered)
        return Terms(process.prior_kl(schedule(params), x0), nats.T, mse.T)

    return terms


def summarise(terms: Terms, dims: int) -> dict[str, float]:
    """The bound of a set of examples, its parts in bits/dim, and its standard error over the examples, in float64.

    rate: L_T and every step but the last; distortion: the last, L_0. rmse: of x0 as predicted at the last step, in
    255ths of the range of the data. Source: Ho et al. 2020, section 4.3.
    """
    whole = np.asarray(terms.prior, np.float64) + np.asarray(terms.steps, np.float64).sum(1)
    prior, steps = (to_bits(np.asarray(nats, np.float64), dims) for nats in (terms.prior, terms.steps))
    rate, distortion = prior.mean() + steps[:, :-1].sum(1).mean(), steps[:, -1].mean()
    return {
        "bits_per_dim": float(to_bits(whole, dims).mean()),
        "bits_per_dim_stderr": float(standard_error(to_bits(whole, dims))),
        "nats": float(whole.mean()),
        "prior_bits_per_dim": float(prior.mean()),
        "rate_bits_per_dim": float(rate),
        "distortion_bits_per_dim": float(distortion),
        "rmse": float(rmse(terms.mse)[-1]),
    }


def curves(terms: Terms, times: np.ndarray, dims: int) -> dict[str, np.ndarray]:
    """What to draw, per step [N] in the order of the steps, starting at `times` [N].

    bits_per_dim and bits_per_dim_stderr: the term of the step. rate_bits_per_dim: spent before the step, L_T included.
    rmse: the distortion then, of x0 as predicted where the step starts. prior_bits_per_dim: L_T, a scalar.
    """
    prior, steps = (to_bits(np.asarray(nats, np.float64), dims) for nats in (terms.prior, terms.steps))
    mean = steps.mean(0)
    return {
        "t": times,
        "bits_per_dim": mean,
        "bits_per_dim_stderr": standard_error(steps),
        "rate_bits_per_dim": prior.mean() + np.concatenate([[0.0], np.cumsum(mean)[:-1]]),
        "rmse": rmse(terms.mse),
        "prior_bits_per_dim": prior.mean(),
        "prior_bits_per_dim_stderr": standard_error(prior),
    }


def rmse(mse: np.ndarray) -> np.ndarray:
    """Mean squared errors [B,N] in the range [-1, 1] as root mean squares [N] in 255ths of that range."""
    return np.sqrt(np.asarray(mse, np.float64).mean(0)) * 127.5


def to_bits(nats: np.ndarray, dims: int) -> np.ndarray:
    """nats per example in bits per dimension."""
    return nats / (dims * np.log(2))


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis; not a number for a single value."""
    return values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(values.shape[1:], np.nan)


def histogram_bits_per_dim(train: Iterable[np.ndarray], heldout: Iterable[np.ndarray], levels: int) -> float:
    """bits/dim of held-out data under a model of independent pixels: for each place a histogram with one count more.

    train, heldout: batches of grey levels, integers [B,*D]. The baseline that any model of images should beat.
    """
    counts: np.ndarray | None = None
    for batch in train:
        flat = batch.reshape(len(batch), -1)
        if counts is None:
            counts = np.ones((flat.shape[1], levels), np.int32)
        for level in range(levels):
            counts[:, level] += (flat == level).sum(0, dtype=np.int32)
    assert counts is not None
    bits = np.log2(counts.sum(1, keepdims=True)) - np.log2(counts)
    dims = np.arange(len(counts))
    of_batches = [bits[dims, batch.reshape(len(batch), -1)].mean(1) for batch in heldout]
    return float(np.concatenate(of_batches).mean())
