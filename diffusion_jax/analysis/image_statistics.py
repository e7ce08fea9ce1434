"""Statistics of images and predictions, from which detection makes its scores."""

import functools
import io
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffusion_jax.analysis import heldout, vlb
from diffusion_jax.analysis.estimators import dims
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source
from diffusion_jax.experiment import paths, samplers, sources
from diffusion_jax.likelihood import variational
from diffusion_jax.process.base import Array, example_keys, fold_all, in_float64, level, normal
from diffusion_jax.runs.trained import Run

STARTS = 5
"""Levels from which images are reconstructed."""
TIMES = 1000
"""Number of times in continuous time of which noise levels are chosen."""
EVEN = 1e-4
"""Difference of logarithms below which two errors count as equal."""


def measure_each(
    run: Run, parts: Sequence[tuple[Source, int]], same_noise: bool = False
) -> list[dict[str, np.ndarray]]:
    """Return `measure` of several sources, each with one label for all its examples (-1: none), compiled once.

    same_noise: examples at the same place of different sources get the same noise.
    """
    sizes = [source.size for source, _ in parts]
    starts = np.cumsum([0, *sizes])
    together = parts[0][0]._replace(size=sum(sizes), read=functools.partial(_joined, parts, starts))
    measured = measure(run, together, starts[:-1] if same_noise else np.zeros(1, int))
    split = {name: np.split(value, starts[1:-1]) for name, value in measured.items()}
    return [{name: of[i] for name, of in split.items()} for i in range(len(parts))]


def _joined(parts: Any, starts: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read examples of joined sources; `starts` are the places of their first ones."""
    which = np.searchsorted(starts, places, side="right") - 1
    label = np.array([label for _, label in parts], np.int32)[which]
    x = np.empty((len(places), *parts[0][0].shape), parts[0][0].read(np.arange(1))[0].dtype)
    for i in np.unique(which):
        x[which == i] = parts[i][0].read(places[which == i] - starts[i])[0]
    return x, label


def measure(run: Run, source: Source, starts: Sequence[int] | np.ndarray = (0,)) -> dict[str, np.ndarray]:
    """Return statistics of images, arrays [N, …].

    The model is given the source's labels. bits, size: bits/dim of the model and of a PNG. reconstruction [N, STARTS],
    denoising [N, L] (log mean squared error of eps), x0_error [N, L] (mean squared error of x0, clipped as in the
    bound), score_norms [N, L], path [N, 6]: statistics of the prediction at the L noise levels. pixels [N, D]. starts:
    places of the examples from which the noise is drawn anew, the same each time.
    """
    steps = noise_levels(run)
    terms, _ = vlb.bound_terms(run, source, jax.tree.map(lambda field: field[-1:], steps))
    x = source.read(np.arange(source.size))[0]
    measured: dict[str, np.ndarray] = heldout.map_batches(run, statistics(run, starts), source)
    found = {name: np.asarray(value, np.float64) for name, value in measured.items()}
    diffusion = diffusion_nats(found["x0_error"], np.asarray(steps.at.logsnr))
    ends = (np.asarray(part, np.float64) for part in (terms.prior, terms.steps[:, -1]))  # of the prior and the decoder
    return {
        **found,
        "bits": variational.to_bits(sum(ends, dims(run) * diffusion), dims(run)),
        "size": np.array([compressed_bits(image) for image in x]) / dims(run),
        "pixels": np.asarray(to_model(x, run.config.data.levels)).reshape(len(x), -1),
    }


def diffusion_nats(x0_error: np.ndarray, log_snr: np.ndarray) -> np.ndarray:
    """Return the part of the bound between first and last level [N].

    The bound has infinitely many steps, in nats per dimension: half the integral of the mean squared error of eps over
    the log signal-to-noise ratio (Kingma et al. 2021). The KL terms of a few long steps would be many times larger.

    Arguments:
        x0_error: mean squared errors of x0 [N,L]; times the ratio they are the errors of eps. Between two levels the
            error of eps is taken to grow exponentially. If the first level has no signal, the error of x0 up to the
            second one is taken to be the mean of both.
        log_snr: log signal-to-noise ratios [L], most noise first.
    """
    log_snr, first = np.asarray(log_snr, np.float64), 0.0
    if np.isneginf(log_snr[0]):
        first = x0_error[:, :2].mean(1) * np.exp(log_snr[1]) / 2
        x0_error, log_snr = x0_error[:, 1:], log_snr[1:]
    error = x0_error * np.exp(log_snr) + np.finfo(np.float64).tiny
    begin, end = error[:, :-1], error[:, 1:]
    growth = np.log(end / begin)
    even = np.abs(growth) < EVEN
    mean = np.where(even, (begin + end) / 2, (end - begin) / np.where(even, 1, growth))
    return np.asarray(first + (mean * np.diff(log_snr)).sum(1) / 2)


def noise_levels(run: Run) -> Any:
    """Return the steps from noise level to noise level and to the data, fields [L].

    There are config.bound.num_steps + 1 levels, most noise first, evenly spaced in the log signal-to-noise ratio, or as
    evenly as the times k/T of a chain allow: from t = 1 to 0, or to 1/T where 0 has no noise. In continuous time T is
    TIMES.
    """
    config, experiment, chain = run.config, run.experiment, run.config.process.num_steps
    count, parts = config.bound.num_steps or chain, chain or TIMES
    if not count:
        raise ValueError("bound.num_steps: must be above 0 in continuous time (got 0). Use --num_steps=10")
    if chain and count < chain:
        paths.check_single_steps(config, "bound.num_steps=0")
    log_snr = in_float64(level, experiment.schedule(None), np.arange(parts + 1) / parts).logsnr
    usable = np.flatnonzero(np.isfinite(log_snr))
    wanted = np.linspace(log_snr[usable[-1]], log_snr[usable[0]], count + 1)
    nearest = usable[np.abs(log_snr[usable] - wanted[:, None]).argmin(1)]
    times = np.unique(np.r_[0, nearest, parts])[::-1] / parts
    return paths.grid_coefficients(config, experiment.process, experiment.schedule, times, denoise=True)(None)


def statistics(run: Run, starts: Sequence[int] | np.ndarray = (0,)) -> heldout.OnBatch:
    """Return the function that computes statistics of the prediction for a batch. starts: see `measure`."""
    config, experiment, rows = run.config, run.experiment, noise_levels(run)
    clips = samplers.clips_x0(config, config.bound)
    count = len(rows.at.t)
    first = np.unique(np.linspace(0, count - 1, STARTS + 1).round().astype(int)[1:])
    begin = jnp.asarray(starts, jnp.int32)
    into, process, predict = sources.make_to_model(config), experiment.process, experiment.predict

    def mean_square(x: Array) -> Array:
        return jnp.square(x).reshape(len(x), -1).mean(1)

    def of_batch(params: Any, key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        place = batch["index"] - begin[jnp.searchsorted(begin, batch["index"], side="right") - 1]
        keys = example_keys(key, place)
        x0, size, label = into(batch["x0"], keys), len(batch["x0"]), batch["label"]
        tiny = jnp.finfo(x0.dtype).tiny
        steps = jax.tree.map(lambda field: jnp.asarray(field, x0.dtype), rows)

        def spread(step: Any, copies: int) -> Any:
            return jax.tree.map(lambda field: jnp.broadcast_to(field, (copies,)), step)

        def at_level(restored: Array, inputs: tuple[Array, Any]) -> tuple[Array, tuple[Array, Array, Array]]:
            """Errors at a level, and one DDIM step of the reconstructions that have started."""
            i, row = inputs
            step = spread(row, size)
            noise = normal(fold_all(keys, i), x0.shape[1:], x0.dtype)
            x_t = process.corrupt(step.at, x0, noise)
            begins = (i == first).reshape(-1, *[1] * x0.ndim)
            restored = jnp.where(begins, x_t, restored)
            clean = process.corrupt(step.at, x0, jnp.zeros_like(noise))
            every = jnp.concatenate([x_t[None], clean[None], restored]).reshape(-1, *x0.shape[1:])
            copies = len(every) // size
            found = predict(params, every, spread(row.at, len(every)), jnp.tile(label, copies), None)
            eps = found.eps.reshape(copies, *x0.shape)
            stepped = process.corrupt(spread(row.to, len(every)), found.x0, found.eps).reshape(eps.shape)[2:]
            error, norm = (mean_square(value) + tiny for value in (eps[0] - noise, eps[1]))
            predicted = jnp.clip(found.x0[:size], -1, 1) if clips else found.x0[:size]
            measured = jnp.log(error), jnp.log(norm), mean_square(predicted - x0)
            return jnp.where((i >= first).reshape(begins.shape), stepped, restored), measured

        numbered = jnp.arange(count), steps
        blank = jnp.zeros((len(first), *x0.shape), x0.dtype)
        restored, (errors, norms, x0_errors) = jax.lax.scan(at_level, blank, numbered)

        def upwards(carry: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Array]:
            """One step of DDIM inversion."""
            x, before = carry
            step = spread(row, size)
            found = predict(params, x, step.to, label, None)
            moments = [jnp.abs(found.eps) ** p for p in (1, 2, 3)] + [
                jnp.abs(found.eps - before) ** p for p in (1, 2, 3)
            ]
            sums = jnp.stack([moment.reshape(size, -1).mean(1) for moment in moments])
            return (process.corrupt(step.at, found.x0, found.eps), found.eps), sums

        rising = jax.tree.map(lambda field: field[:-1][::-1], steps)  # without the step to no noise
        lowest = spread(jax.tree.map(lambda field: field[-1], steps.at), size)
        clean = process.corrupt(lowest, x0, jnp.zeros_like(x0))
        start = predict(params, clean, lowest, label, None).eps
        _, moments = jax.lax.scan(upwards, (clean, start), rising)
        return {
            "reconstruction": jnp.stack([mean_square(x - x0) for x in restored], axis=1),
            "denoising": errors.T,
            "x0_error": x0_errors.T,
            "score_norms": norms.T,
            "path": jnp.log(moments.mean(0) + tiny).T,
        }

    return of_batch


def compressed_bits(image: np.ndarray) -> int:
    """Return the bits of an image [H,W,1|3] of uint8 as a PNG. Of any other array, the bits after deflate."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] in (1, 3):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG", optimize=True)
        return 8 * len(buffer.getvalue())
    return 8 * len(zlib.compress(image.tobytes(), 9))
