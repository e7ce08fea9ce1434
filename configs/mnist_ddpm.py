"""DDPM on MNIST (60,000 handwritten digits, 28 x 28 pixels): on two CPU cores, or in minutes on a GPU.

Run:    python -m diffusion_jax.main train --config=configs/mnist_ddpm.py --workdir=runs/mnist_ddpm
        python -m diffusion_jax.main evaluate --workdir=runs/mnist_ddpm --metrics=parzen --num_samples=10000
Expect: not measured
Time:   not measured

Data: data/mnist with the four IDX files. Variant :gpu as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load(f"fashion_ddpm:{variant}")
    c.data.idx.path = "data/mnist"
    return c
