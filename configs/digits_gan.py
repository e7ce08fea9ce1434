"""GAN on the handwritten digits: non-saturating loss with the R1 penalty.

Run:    python -m diffusion_jax.main train --config=configs/digits_gan.py --workdir=runs/digits_gan
Expect: Fréchet distance of 1,500 samples 0.775 in the digit features, recall 0.475 (measured)
Time:   18 minutes on two CPU cores with two other trainings (measured)
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 4000
    c.batch_size = 32
    c.network.name = "gan"
    c.network.gan.update(channels=24, multipliers=(1, 2), blocks=1, latent_channels=32)
    c.loss.name = "gan"
    c.optimizer.update(learning_rate=5e-4, warmup_steps=200, grad_clip=0.0)
    c.optimizer.adam.update(b1=0.0, b2=0.99)
    c.ema.update(decays=(0.998,), ramp=0.1)
    c.sampler.name = "direct"
    c.checkpoint.every = 500
    c.report.samples_every = 1000
    c.eval.update(every=500, svm=True)
    return config.variant(c, variant)
