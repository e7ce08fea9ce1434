"""DDPM on MNIST (60,000 handwritten digits, 28 x 28 pixels): on two CPU cores, or in minutes on a GPU.

Run:    python -m diffusion_jax.main train --config=configs/mnist_ddpm.py --workdir=runs/mnist_ddpm
        python -m diffusion_jax.main evaluate --workdir=runs/mnist_ddpm --metrics=parzen --num_samples=10000 \\
            --sampler.num_steps=100
Expect: held-out loss 0.0221; with 10,000 samples of 100 ancestral steps a Parzen estimate of 292.8 ± 3.2 bits and a
        Fréchet distance of 0.297 (0.279-0.316) in grey28 features (measured; docs/results/mnist.md). :gpu is not
        measured
Time:   63 minutes on one CPU core beside other work (measured)

Data: data/mnist with the four IDX files. Variant :gpu as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load(f"fashion_ddpm:{variant}")
    c.data.idx.path = "data/mnist"
    return c
