"""NCSNv2 on CIFAR-10: Song and Ermon 2020, 232 levels of noise, 29.7 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_ncsnv2.py --workdir=runs/cifar10_ncsnv2
Expect: FID 10.87, Inception score 8.40 (reported by the paper, table 1; not measured here)
Time:   300,000 steps (the public code; not measured here)

As configs/cifar10_ncsn.py, with the paper's techniques: sigma starts at the largest distance between training images
and falls by a constant factor; the network is not conditioned on the level, and its output divided by sigma is the
score (so it predicts the noise, with the opposite sign); five Langevin steps per level, 1,160 network calls and one for
the final step to x0; averaged weights. The public code has data in [0, 1] and sigma from 0.01 to 50; here data are in
[-1, 1], hence sigma from 0.02 to 100. Its step is 6.2e-6 sigma²/sigma_min², which is snr² = 0.031 here.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("cifar10_ncsn")
    c.train_steps = 300_000
    c.data.dequantise = False
    c.process.num_steps = 232
    c.schedule.geometric.sigma_max = 100.0
    c.network.name = "ncsnv2"
    c.prediction.target = "eps"
    c.loss.name = "simple"  # which for this target is the same
    c.optimizer.learning_rate = 1e-4
    c.ema.decays = (0.999,)
    c.sampler.denoise = True
    c.sampler.annealed_langevin.update(snr=0.031**0.5, steps=5)
    return config.variant(c, variant)
