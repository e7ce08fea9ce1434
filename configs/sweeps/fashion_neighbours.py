"""Diffusion in pixels and in latents, variational autoencoder and GAN on Fashion-MNIST, with the same time to train.

Run:    python -m diffusion_jax.main train --config=configs/fashion_vae.py:latent --config.train_steps=1000 \\
            --workdir=runs/fashion_autoencoder
        python -m diffusion_jax.main sweep --sweep=configs/sweeps/fashion_neighbours.py \\
            --workdir=runs/fashion_neighbours
        python -m diffusion_jax.main compare runs/fashion_neighbours
Expect: Fréchet distance in the grey28 features, precision and recall of 2,000 samples (measured):

    diffusion       2.82 ± 0.13    0.401 ± 0.008    0.686 ± 0.021
    latent          2.23 ± 0.09    0.339 ± 0.007    0.768 ± 0.010
    vae             4.36 ± 0.01    0.213 ± 0.012    0.792 ± 0.009
    gan             1.96 ± 0.16    0.654 ± 0.016    0.203 ± 0.028

Time:   seven to nine minutes for each training and one and a half to three for its evaluation, on one CPU core beside
        other work (measured)

The numbers of steps make the times of training about equal; that of the autoencoder, whose latents one cell uses, comes
on top. Diffusion draws with 15 network calls, the others with one.

Data: data/fashion-mnist with the four IDX files, or Debian's package dataset-fashion-mnist.
"""

from typing import Any

METRICS = ("--metrics=fid,pr,nn", "--features=grey28", "--num_samples=2000", "--allow=sizes")


def get_sweep(variant: str = "") -> dict[str, Any]:
    """The grid; "tiny" for tests, on digits."""
    if variant not in ("", "tiny"):
        raise ValueError(f"sweep variant {variant!r} is not known; use none or :tiny")
    few = {"sampler.name": "dpmpp_2m", "sampler.grid": "logsnr", "sampler.num_steps": 15}
    cells: dict[str, dict[str, Any]] = {
        "diffusion": {"config": "fashion_ddpm", "train_steps": 1400, **few},
        "latent": {"config": "fashion_latent", "train_steps": 1100, **few},
        "vae": {"config": "fashion_vae", "train_steps": 2250, "evaluate": ("--likelihood=vlb,multi", *METRICS)},
        "gan": {"config": "fashion_gan", "train_steps": 1050},
    }
    if variant == "tiny":
        cells = {name: {"config": f"digits_{name}:tiny"} for name in ("vae", "gan")}
    return {
        "config": "fashion_ddpm",
        "seeds": range(2 if variant else 3),
        "flags": {"report.samples_every": 0, "report.tensorboard": False},
        "cells": cells,
        "evaluate": METRICS,
        "note": "Fashion-MNIST, about equal training times; 2,000 samples against the 60,000 training images.",
    }
