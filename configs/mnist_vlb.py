"""Diffusion model of MNIST trained on the whole bound, for likelihood rather than sample quality.

Run:    python -m diffusion_jax.main train --config=configs/mnist_vlb.py --workdir=runs/mnist_vlb
        python -m diffusion_jax.main evaluate --workdir=runs/mnist_vlb --likelihood=vlb --num_samples=0
Expect: not measured
Time:   not measured

Data: data/mnist with the four IDX files. Variant :gpu as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load(f"fashion_vlb:{variant}")
    c.data.idx.path = "data/mnist"
    return c
