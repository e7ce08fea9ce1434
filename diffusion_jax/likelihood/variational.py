"""Variational bound on held-out data, step by step, with rate and distortion.

A sender transmits x_1, then x_s given x_t for each step of a falling grid, and at last x0: after some steps the *rate*
is the code length so far, and the *distortion* the error of the receiver's best estimate of x0.

Reference: Ho et al. 2020, section 4.3.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective import bound
from diffusion_jax.objective.losses import Batch
from diffusion_jax.objective.prediction import Denoiser
from diffusion_jax.process.base import (
    Array,
    Process,
    ScheduleFromParams,
    StepCoefficients,
    example_keys,
    fold_all,
    normal,
)


class BoundTerms(NamedTuple):
    """Terms of the variational bound, per example, for N steps, the last to x0."""

    prior: Any
    """L_T in nats [B]."""
    steps: Any
    """The term of each step in nats [B,N]; the last is the decoder's."""
    mse: Any
    """(x0 - predicted x0)² at the start of each step, a mean over dimensions in the model's range, [B,N]."""


BoundTermsFunction = Callable[[Any, Array, Batch], BoundTerms]
"""Terms of the variational bound, one draw of x_t per step: (params, key, batch) -> terms.

The batch has "x0" float [B,*D] in the model's range, "label" and "index" int [B]; the noise of an example follows from
the key and its index."""


def make_terms(
    predict: Denoiser,
    process: Process,
    schedule: ScheduleFromParams,
    step_term: bound.StepTerm,
    coefficients: StepCoefficients,
) -> BoundTermsFunction:
    """Make the function that computes the terms of the bound.

    coefficients: of the steps, fields [N]. Reference: Ho et al. 2020, eq. 5.
    """

    def terms(params: Any, key: Array, batch: Batch) -> BoundTerms:
        x0, size = batch["x0"], len(batch["x0"])
        keys = example_keys(key, batch["index"])

        def one(_: None, inputs: tuple[Array, Any]) -> tuple[None, tuple[Array, Array]]:
            i, step = inputs
            step = jax.tree.map(lambda field: jnp.broadcast_to(field, (size,)), step)
            noise = normal(fold_all(keys, i), x0.shape[1:], x0.dtype)
            x_t = process.corrupt(step.at, x0, noise)
            prediction = predict(params, x_t, step.at, batch["label"], None)
            mse = jnp.square(prediction.x0 - x0).reshape(size, -1).mean(1)
            return None, (step_term(step, prediction, x0, x_t), mse)

        numbered = (
            jnp.arange(len(coefficients.at.t)),
            jax.tree.map(lambda field: jnp.asarray(field, x0.dtype), coefficients),
        )
        _, (nats, mse) = jax.lax.scan(one, None, numbered)
        return BoundTerms(process.prior_kl(schedule(params), x0), nats.T, mse.T)

    return terms


def summarise(terms: BoundTerms, dims: int) -> dict[str, float]:
    """Return the bound of a set of examples and its parts, in float64.

    bits_per_dim, its standard error over the examples (bits_per_dim_stderr), and nats.

    rate: L_T and every step but the last; distortion: the last, L_0. rmse: of the predicted x0 at the last step, in
    255ths of the range of the data. Reference: Ho et al. 2020, section 4.3.
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


def curves(terms: BoundTerms, times: np.ndarray, dims: int) -> dict[str, np.ndarray]:
    """Return curves over the steps [N], which start at `times` [N].

    bits_per_dim, bits_per_dim_stderr: the term of the step and its standard error. rate_bits_per_dim: code length
    before the step, L_T included. rmse: the distortion there, of the predicted x0. prior_bits_per_dim: L_T, a scalar.
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
    """Return root mean squares [N], in 255ths of the range [-1, 1], of squared errors [B,N]."""
    return np.sqrt(np.asarray(mse, np.float64).mean(0)) * 127.5


def to_bits(nats: np.ndarray, dims: int) -> np.ndarray:
    """Convert nats per example to bits per dimension."""
    return nats / (dims * np.log(2))


def standard_error(values: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over the first axis. NaN for one value."""
    return values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(values.shape[1:], np.nan)


def histogram_bits_per_dim(train: Iterable[np.ndarray], heldout: Iterable[np.ndarray], levels: int) -> float:
    """Return bits/dim of held-out data under independent pixels: a baseline for models of images.

    The model of each pixel is its histogram over the training data plus one count per level. train, heldout: batches of
    grey levels, integers [B,*D].
    """
    counts: np.ndarray | None = None
    for batch in train:
        flat = batch.reshape(len(batch), -1)
        if counts is None:
            counts = np.ones((flat.shape[1], levels), np.int64)
        cells = flat + np.arange(flat.shape[1]) * levels
        counts += np.bincount(cells.ravel(), minlength=counts.size).reshape(counts.shape)
    assert counts is not None
    bits = np.log2(counts.sum(1, keepdims=True)) - np.log2(counts)
    dims = np.arange(len(counts))
    per_batch = [bits[dims, batch.reshape(len(batch), -1)].mean(1) for batch in heldout]
    return float(np.concatenate(per_batch).mean())
