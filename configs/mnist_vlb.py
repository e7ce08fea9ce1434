"""Diffusion model of MNIST trained on the whole bound, for likelihood rather than sample quality.

Run:    python -m diffusion_jax.main train --config=configs/mnist_vlb.py --workdir=runs/mnist_vlb
        python -m diffusion_jax.main evaluate --workdir=runs/mnist_vlb --likelihood=vlb --num_samples=0
Expect: 1.321 bits/dim on the 10,000 test images (held-out loss, an unbiased estimate of the bound of 1,000 steps with a
        standard error below 0.01; measured). A histogram per pixel needs 1.690
Time:   5,000 steps; 38 minutes on two CPU cores beside other work (measured)

Data: data/mnist with the four IDX files. Variant :gpu as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load(f"fashion_vlb:{variant}")
    c.data.idx.path = "data/mnist"
    return c
