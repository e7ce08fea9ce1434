"""DDPM on Fashion-MNIST (60,000 images of clothes, 28 x 28 pixels): on two CPU cores, or in minutes on a GPU.

Run:    python -m diffusion_jax.main train --config=configs/fashion_ddpm.py --workdir=runs/fashion_ddpm
        python -m diffusion_jax.main train --config=configs/fashion_ddpm.py:gpu --workdir=runs/fashion_ddpm
        python -m diffusion_jax.main evaluate --workdir=runs/fashion_ddpm --metrics=fid --features=grey28 \\
            --num_samples=10000 --allow=sizes --sampler.name=dpmpp_2m_sde --sampler.num_steps=15
Expect: held-out loss 0.0404; Fréchet distance of 10,000 samples of 15 calls 0.264 in grey28 features
        (measured; docs/results/mnist.md). :gpu is not measured
Time:   63 minutes on one CPU core beside other work (measured)

Data: data/fashion-mnist with the four IDX files, or Debian's package dataset-fashion-mnist.
"""

from ml_collections import ConfigDict

from diffusion_jax import config

GPU = {
    "train_steps": 60_000,
    "batch_size": 256,
    "network.unet.channels": 64,
    "network.unet.multipliers": (1, 2, 2),
    "network.unet.blocks": 2,
    "network.unet.attention": (14, 7),
    "network.unet.dropout": 0.1,
    "network.unet.dtype": "bfloat16",
    "optimizer.learning_rate": 5e-4,
    "optimizer.warmup_steps": 1000,
    "ema.decays": (0.9995,),
    "sampler.tile": 512,
    "checkpoint.every": 5000,
    "eval.every": 5000,
    "eval.max_examples": 10_000,
}
"""A variant for one GPU."""


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.defaults()
    c.train_steps = 12_000
    c.batch_size = 32
    c.data.update(name="idx", shape=(28, 28, 1), levels=256, classes=10)
    c.data.idx.update(path="data/fashion-mnist", classes=10)
    c.network.unet.update(channels=16, multipliers=(1, 2, 4), blocks=1, attention=(7,), dropout=0.0)
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=2e-3, warmup_steps=200, schedule="cosine")
    c.ema.update(decays=(0.998,), ramp=0.1)
    c.checkpoint.every = 500
    c.report.update(samples_every=0, sampler_steps=100)
    c.eval.update(every=500, max_examples=1000)
    return config.variant(c, variant, gpu=GPU)
