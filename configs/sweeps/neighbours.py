"""Diffusion in pixels and in latents, variational autoencoder and GAN on digits, with the same time to train.

Run:    python -m diffusion_jax.main train --config=configs/digits_vae.py:latent --config.train_steps=1600 \\
            --workdir=runs/digits_autoencoder
        python -m diffusion_jax.main sweep --sweep=configs/sweeps/neighbours.py --workdir=runs/neighbours
        python -m diffusion_jax.main compare runs/neighbours
        With ":ten": ten seeds of one model of each kind, to see how many trainings fail or diverge; in another
        directory.
Expect: Fréchet distance in the digit features, precision and recall of 1,500 samples (measured):

    diffusion       1.05 ± 0.08    0.420 ± 0.012    0.942 ± 0.004
    transformer     5.83 ± 0.10    0.246 ± 0.006    0.662 ± 0.011
    vae             1.27 ± 0.09    0.667 ± 0.004    0.832 ± 0.011
    gan             1.40 ± 0.01    0.728 ± 0.015    0.505 ± 0.020

Time:   twelve runs of four to six minutes each on two CPU cores beside other work (measured)

A step of the GAN takes 2.1 times as long as one of the autoencoder, one of the U-Net 1.6 times (measured), and two of
the U-Net as long as three of the transformer: the numbers of steps make the times about equal. Diffusion draws with 15
network calls, the others with one. The recipes are digits, digits_dit, digits_vae and digits_gan, shortened to two
fifths, all with averages that begin short (ema.ramp).
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
