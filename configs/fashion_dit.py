"""Diffusion transformer (Peebles and Xie 2023) on Fashion-MNIST, at the sizes of configs/fashion_ddpm.py.

Run:    python -m diffusion_jax.main train --config=configs/fashion_dit.py --workdir=runs/fashion_dit
        python -m diffusion_jax.main train --config=configs/fashion_dit.py:gpu --workdir=runs/fashion_dit
Expect: not measured
Time:   not measured

Data and variant :gpu as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config

GPU = {
    "network.dit.patch": 2,
    "network.dit.channels": 256,
    "network.dit.depth": 6,
    "network.dit.dtype": "bfloat16",
    "optimizer.learning_rate": 3e-4,
}
"""A variant for one GPU."""


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load("fashion_ddpm:gpu" if variant == "gpu" else "fashion_ddpm")
    if variant != "gpu":
        c.train_steps = 3000
    c.network.name = "dit"
    c.network.dit.update(patch=4, channels=64, depth=8, heads=4)
    c.optimizer.learning_rate = 1e-3
    return config.variant(c, variant, gpu=GPU)
