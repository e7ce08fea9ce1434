"""NCSN++ on CIFAR-10 with the VE SDE: Song et al. 2021, continuous, 62.8 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_ve_ncsnpp.py --workdir=runs/cifar10_ve
Expect: FID and Inception score of 50,000 samples (reported by the public code of the paper; not measured here):

    default      2.38    9.83
    :deep        2.20    9.89    107.6 M parameters

Time:   1,300,000 steps, 950,000 of :deep (reported; not measured here)

The public code has data in [0, 1] and sigma from 0.01 to 50; here data are in [-1, 1], hence sigma from 0.02 to 100.
It divides the network's output by sigma to get the score, so the network predicts the noise (with the opposite sign).
Its Fourier features have scale 16 on ln sigma, hence 64 here, where the conditioning is ln(sigma)/4. Its loss is half
the *sum* of squared errors, so clipping at norm 1 is always active; this is part of the recipe.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "deep" has twice the blocks, "tiny" is for tests."""
    c = config.load("cifar10_ddpm")
    c.train_steps = 1_300_000
    c.process.num_steps = 0
    c.schedule.name = "ve"
    c.schedule.ve.update(sigma_min=0.02, sigma_max=100.0)
    c.network.update(name="ncsnpp", conditioning="log_sigma")
    c.network.ncsnpp.update(dropout=0.1, embedding="fourier", fourier_scale=64.0)
    c.network.ncsnpp.update(taps=(1, 3, 3, 1), progressive_input=True)
    c.loss.reduction = "half_sum"
    c.times.min_t = 1e-5
    c.ema.decays = (0.999,)
    c.sampler.update(name="predictor_corrector", num_steps=1000, min_t=1e-5, clip_x0=False)
    return config.variant(c, variant, deep={"network.ncsnpp.blocks": 8, "train_steps": 950_000})
