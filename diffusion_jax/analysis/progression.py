"""Pictures of what happens between noise and data in a trained run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import files
from diffusion_jax.data.scaling import to_model
from diffusion_jax.experiment import sources
from diffusion_jax.runs import pictures, trained
from diffusion_jax.sampling import progressive


def draw_progression(run: trained.Run, number: int, seed: int = 0) -> dict[str, str]:
    """Draw what `evaluation.progressive` shows, `number` columns wide, beside the other results; returns the paths.

    progressive_decoding.png: held-out examples as a receiver sees them while bits arrive; progressive_generation.png:
    samples as they come about; shared_latents.png: samples that part at level t; interpolation.png: between the first
    two held-out examples. progressive.npz holds the arrays by these names, in the levels of the data.
    """
    config, sampler, process = run.config, run.experiment.sampler, run.experiment.process
    heldout = sources.source(config, "heldout")
    if not 2 <= number <= heldout.size:
        raise ValueError(f"--num_samples={number} must be 2 to {heldout.size}, the number of held-out examples")
    grey, label = heldout.read(np.arange(number))
    x0 = to_model(grey, config.data.levels, config.data.mean, config.data.std)
    params = jax.device_get(run.params)
    seeds = np.arange(seed, seed + number)
    found = {
        "progressive_decoding": progressive.decoding(sampler, process, params, x0, jnp.asarray(label), seed),
        "progressive_generation": progressive.generation(sampler, params, seeds),
        "shared_latents": progressive.sharing(sampler, params, seed, number),
        "interpolation": progressive.interpolation(sampler, process, params, x0[:2], seed, number),
    }
    arrays: dict[str, Any] = {name: np.asarray(sources.out_of_range(config)(x)) for name, x in found.items()}
    directory = trained.evaluation_directory(run)
    rows = sampler.rows(params)
    starts = [f"t = {float(chunk.at.t[0]):.2f}" for chunk in progressive.parts(rows, 10)]
    depths = [f"t = {float(chunk.at.t[0]):.2f}" for chunk in progressive.parts(rows, 4)]
    labels = {
        "progressive_decoding": ([*starts, "x0"], "x0 as predicted from x_t, x_t ~ q(x_t | x0) of held-out examples"),
        "progressive_generation": ([*starts, "sample"], "x0 as predicted from x_t while samples are drawn"),
        "shared_latents": (starts, "samples that have x_t in common"),
        "interpolation": (["pixels", *reversed(depths)], "between two held-out examples, mixed at level t"),
    }
    paths = {name: directory / f"{name}.png" for name in arrays}
    for name, (named, title) in labels.items():
        pictures.table(paths[name], arrays[name], config.data.levels, named, title)
    files.save_npz(directory / "progressive.npz", arrays)
    return {name: str(path) for name, path in paths.items()}
