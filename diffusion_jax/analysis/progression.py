"""Pictures of the states between noise and data in a trained run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import files
from diffusion_jax.experiment import drawing, guidances, sources
from diffusion_jax.runs import pictures, trained
from diffusion_jax.sampling import progressive

MOST_CLASSES = 20
"""Rows of the picture of classes."""


def draw_progression(run: trained.Run, number: int, seed: int = 0) -> dict[str, str]:
    """Draw the pictures of `sampling.progressive`, `number` columns wide, beside the other results; return the paths.

    progressive_decoding.png: predictions of held-out examples from x_t, from noise to data;
    progressive_generation.png: predictions while samples are drawn; shared_latents.png: samples that share x_t, one row
    per level; interpolation.png: interpolations of the first two held-out examples; samples_by_class.png: samples of a
    model that takes a class, a row for each of the first MOST_CLASSES, with equal seeds in each column. progressive.npz
    holds the arrays by these names, in the levels of the data. Without held-out data there are neither decoding nor
    interpolation. Raises ValueError for a number of columns below 2 or above the number of held-out examples.
    """
    config, sampler, process = run.config, run.experiment.sampler, run.experiment.process
    if config.latent.workdir:
        raise ValueError(f"latent.workdir={config.latent.workdir}: show needs a denoiser of the data. Use sample")
    heldout = sources.heldout_or_none(config, "decoding and interpolation")
    if number < 2 or (heldout and number > heldout.size):
        most = f" … {heldout.size}, the number of held-out examples" if heldout else " or more"
        raise ValueError(f"--num_samples={number}: must lie in 2{most}")
    directory = trained.evaluation_directory(run)
    params = jax.device_put(jax.device_get(run.params))  # once, and not at every call
    seeds = trained.seeds_from(seed, number)
    predictions = {
        "progressive_generation": progressive.generation(sampler, params, seeds),
        "shared_latents": progressive.sharing(sampler, params, seed, number),
    }
    if heldout:
        stored, label = heldout.read(np.arange(number))
        x0 = sources.in_range(config, stored)
        predictions |= {
            "progressive_decoding": progressive.decoding(sampler, process, params, x0, jnp.asarray(label), seed),
            "interpolation": progressive.interpolation(
                sampler, process, params, x0[:2], jnp.asarray(label[:2]), seed, number
            ),
        }
    arrays: dict[str, Any] = {name: sources.make_from_model(config)(x) for name, x in predictions.items()}
    rows = sampler.coefficients(params)
    starts = [f"t = {float(chunk.at.t[0]):.2f}" for chunk in progressive.parts(rows, 10)]
    depths = [f"t = {float(chunk.at.t[0]):.2f}" for chunk in progressive.parts(rows, 4)]
    labels = {
        "progressive_decoding": ([*starts, "x0"], "prediction of x0 from x_t ~ q(x_t | x0), held-out examples"),
        "progressive_generation": ([*starts, "sample"], "prediction of x0 from x_t while sampling"),
        "shared_latents": (starts, "samples that share x_t"),
        "interpolation": (["pixels", *reversed(depths)], "interpolation of two held-out examples at level t"),
    }
    if guidances.uses_label(config):
        names = sources.captions(config, np.arange(config.data.classes)[:MOST_CLASSES])
        arrays["samples_by_class"] = class_samples(run, len(names), seeds)
        labels["samples_by_class"] = (names, "samples by class, equal seeds in each column")
    paths = {}
    for name, array in arrays.items():
        paths[name] = pictures.table(directory / f"{name}.png", array, config.data.levels, *labels[name])
    files.save_npz(directory / "progressive.npz", arrays)
    return {name: str(path) for name, path in paths.items()}


def class_samples(run: trained.Run, classes: int, seeds: np.ndarray) -> np.ndarray:
    """Return samples [classes, N, *D] of the first classes, at the same seeds [N] for each."""
    draw = drawing.samples(run.config, run.experiment.sampler, complete=True)
    labels = np.repeat(np.arange(classes), len(seeds))
    samples = draw(run.params, np.tile(seeds, classes), labels)
    return samples.reshape(classes, len(seeds), *samples.shape[1:])
