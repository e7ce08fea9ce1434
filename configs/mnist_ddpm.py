"""DDPM on MNIST (60,000 handwritten digits, 28 x 28 pixels): on two CPU cores, or in minutes on a GPU.

Run:    python -m diffusion_jax.main train --config=configs/mnist_ddpm.py --workdir=runs/mnist_ddpm
        python -m diffusion_jax.main evaluate --workdir=runs/mnist_ddpm --metrics=parzen --num_samples=10000 \\
            --sampler.name=dpmpp_2m_sde --sampler.num_steps=15
Expect: held-out loss 0.0216; with 10,000 samples of 15 network calls a Parzen estimate of 318.8 ± 3.2 bits and a
        Fréchet distance of 0.155 (0.141-0.169) in grey28 features (measured; docs/results/mnist.md).
        :gpu is not measured
Time:   103 minutes on two CPU cores beside other work (measured); free cores: 75 minutes by their speed at the start

Data: data/mnist with the four IDX files. Variant :gpu as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load(f"fashion_ddpm:{variant}")
    c.data.idx.path = "data/mnist"
    if not variant:
        c.train_steps = 24_000
    return c
