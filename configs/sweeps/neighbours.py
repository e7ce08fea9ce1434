"""Diffusion in pixels and in latents, variational autoencoder and GAN on digits, with the same time to train.

Run:    python -m diffusion_jax.main train --config=configs/digits_vae.py:latent --config.train_steps=1600 \\
            --workdir=runs/digits_autoencoder
        python -m diffusion_jax.main sweep --sweep=configs/sweeps/neighbours.py --workdir=runs/neighbours
        python -m diffusion_jax.main compare runs/neighbours
        With ":ten": ten seeds of one model of each kind, to see how many trainings fail or diverge; in another
        directory.
Expect: Fréchet distance in the digit features, precision and recall of 1,500 samples (measured):

    diffusion       0.84 ± 0.04    0.516 ± 0.001    0.928 ± 0.002
    transformer     5.78 ± 0.04    0.265 ± 0.006    0.646 ± 0.002
    latent          0.76 ± 0.07    0.546 ± 0.014    0.913 ± 0.004
    vae             1.27 ± 0.09    0.661 ± 0.002    0.834 ± 0.011
    gan             1.28 ± 0.14    0.734 ± 0.008    0.520 ± 0.031

        With ":ten" all 30 trainings finish, and no distance is above 1.2 times the median of its kind (measured).
Time:   a minute and a half for each training and half a minute for its evaluation, on one CPU core (measured)

The numbers of steps make the times about equal; the training of the autoencoder for the cell "latent" comes on top.
Diffusion draws with 15 network calls, the others with one. The recipes are digits, digits_dit, digits_vae and
digits_gan, shortened. Averages begin short (ema.ramp), and learning rates decay, except that of the GAN.
"""

from typing import Any

METRICS = ("--metrics=fid,pr,nn", "--features=digits", "--num_samples=1500")


def get_sweep(variant: str = "") -> dict[str, Any]:
    """The grid; "ten" with ten seeds of three cells, "tiny" for tests."""
    if variant not in ("", "ten", "tiny"):
        raise ValueError(f"sweep variant {variant!r} is not known; use none, :ten or :tiny")
    few = {"sampler.name": "dpmpp_2m", "sampler.grid": "logsnr", "sampler.num_steps": 15}
    few |= {"optimizer.schedule": "cosine", "ema.ramp": 0.1}
    latent = {"latent.workdir": "runs/digits_autoencoder", "sampler.clip_x0": False}
    latent |= {"network.unet.channels": 64, "network.unet.multipliers": (1,), "network.unet.blocks": 2}
    cells: dict[str, dict[str, Any]] = {
        "diffusion": {"config": "digits", "train_steps": 1300, **few},
        "transformer": {"config": "digits_dit", "train_steps": 1950, **few},
        "latent": {"config": "digits", "train_steps": 1500, **few, **latent},
        "vae": {"config": "digits_vae", "train_steps": 1600, "evaluate": ("--likelihood=vlb,multi", *METRICS)},
        "gan": {"config": "digits_gan", "train_steps": 800},
    }
    if variant == "ten":
        cells = {name: cells[name] for name in ("diffusion", "vae", "gan")}
    if variant == "tiny":
        cells = {name: {"config": f"{cells[name]['config']}:tiny"} for name in ("diffusion", "gan")}
    return {
        "config": "digits",
        "seeds": {"": range(3), "ten": range(10), "tiny": range(2)}[variant],
        "flags": {"report.samples_every": 0, "report.tensorboard": False},
        "cells": cells,
        "evaluate": METRICS,
        "note": "Digits, about equal training times; 1,500 samples against the 1,500 training images.",
    }
