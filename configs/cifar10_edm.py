"""EDM on CIFAR-10: the preconditioning, weights, noise levels and training of Karras et al. 2022, 55.7 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_edm.py --workdir=runs/cifar10_edm
Expect: FID 1.97, of :cond 1.79, each the minimum over three sets of 50,000 samples in 35 network calls (reported by
        the paper, table 2; not measured here)
Time:   390,625 steps of 512 images (reported; not measured here)

Variants: DDPM++ by default, NCSN++ with :ve (both with EDM's preconditioning); :cond and :ve_cond are
class-conditional. All settings are those of the paper's table 7, with the augmentation of its appendix F.2, which
includes the left-right flips. Without augmentation (data.augment=0, data.flip=True, network.ncsnpp.augment_dims=0) the
JAX code of consistency models reports FID 2.04 and Inception score 9.84. Difference from the public code: updates that
are not finite are skipped, where the code replaces the elements that are not.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variants "ve", "cond" and "ve_cond" as the header says, "tiny" is for tests."""
    c = config.load("cifar10_ddpm")
    c.train_steps = 390_625
    c.batch_size = 512
    c.data.update(augment=0.12, flip=False)
    c.process.num_steps = 0
    c.schedule.name = "edm"
    c.network.update(name="ncsnpp", conditioning="log_sigma")
    c.network.ncsnpp.update(multipliers=(2, 2, 2), dropout=0.13, augment_dims=9)
    c.prediction.update(target="edm", input_scaling="unit_variance", sigma_data=0.5)
    c.loss.update(name="edm", reduction="sum")
    c.times.name = "log_normal"
    c.optimizer.update(learning_rate=1e-3, warmup_steps=19_531, grad_clip=0.0)  # over 10 million images
    c.ema.update(decays=(0.99929,), ramp=0.05)  # a half-life of 500,000 images
    c.sampler.update(name="edm", num_steps=17, clip_x0=False)  # and the step to sigma = 0: 18, in 35 calls
    network = "network.ncsnpp"
    ve = {f"{network}.embedding": "fourier", f"{network}.taps": (1, 3, 3, 1), f"{network}.progressive_input": True}
    cond = {"network.conditional": True}
    return config.variant(c, variant, ve=ve, cond=cond, ve_cond=ve | cond)
