"""Latent DDPM on Fashion-MNIST: diffusion in the 7 x 7 x 4 latents of an autoencoder.

Run:    python -m diffusion_jax.main train --config=configs/fashion_latent.py --workdir=runs/fashion_latent
        after the autoencoder:
        python -m diffusion_jax.main train --config=configs/fashion_vae.py:latent --workdir=runs/fashion_autoencoder
Expect: with 1,000 steps of the autoencoder and 2,500 of this, Fréchet distance of 2,000 samples of 15 calls 1.245 in
        grey28 features (measured; docs/results/mnist.md)
Time:   8 and 35 minutes for these steps on two CPU cores beside other work (measured)

Data: data/fashion-mnist with the four IDX files, or Debian's package dataset-fashion-mnist.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "tiny" is for tests, without an autoencoder."""
    c = config.defaults()
    c.train_steps = 6000
    c.batch_size = 64
    c.data.update(name="idx", shape=(28, 28, 1), levels=256, classes=10)
    c.data.idx.update(path="data/fashion-mnist", classes=10)
    c.latent.workdir = "runs/fashion_autoencoder"
    c.network.unet.update(channels=64, multipliers=(1,), blocks=2, attention=(7,), dropout=0.0)
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=2e-3, warmup_steps=200, schedule="cosine")
    c.ema.update(decays=(0.998,), ramp=0.1)
    c.sampler.clip_x0 = False
    c.checkpoint.every = 500
    c.report.update(samples_every=0, sampler_steps=100)
    c.eval.update(every=500, max_examples=1000)
    return config.variant(c, variant)
