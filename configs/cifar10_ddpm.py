"""DDPM on CIFAR-10: the L_simple model of Ho et al. 2020, 35.7 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_ddpm.py --workdir=runs/cifar10_ddpm
Expect: FID 3.17, Inception score 9.46 with 50,000 samples (reported by the paper, table 1; not measured here)
Time:   800,000 steps; 10.6 h at 21 steps/s on a TPU v3-8 (reported by the paper, appendix B; not measured here)

Data: python -m diffusion_jax.main prepare --config=configs/cifar10_ddpm.py, once, with a network connection and
TensorFlow. Differences from the public code of the paper: the averaged gradient is clipped, not the gradient of each
replica (so the number of devices has no effect), and an epoch is one permutation of the set.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 800_000
    c.batch_size = 128
    c.data.update(name="tfds", flip=True, shape=(32, 32, 3), levels=256, classes=10)
    c.data.tfds.update(dataset="cifar10", data_dir="data/tfds", in_memory=True)
    c.network.unet.update(channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1)
    c.optimizer.update(learning_rate=2e-4, warmup_steps=5000)
    c.ema.ramp = 0.0
    c.checkpoint.update(every=10_000, keep_every=100_000)
    c.report.samples_every = 50_000
    return config.variant(c, variant)
