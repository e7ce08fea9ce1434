"""DDPM on LSUN bedrooms at 256 x 256 pixels: Ho et al. 2020, 113.7 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/lsun_bedroom256.py --workdir=runs/lsun_bedroom256
Expect: FID 6.36 (reported by the paper, table 3; not measured here)
Time:   2,400,000 steps; 2.2 steps/s on a TPU v3-8 (reported by the paper, appendix B; not measured here)

The data: a folder of images. LSUN comes as LMDB, unpacked by the export command of its own tools (github.com/fyu/lsun):
    python data.py export bedroom_train_lmdb --out_dir data/lsun_bedroom
Images are scaled to 256 pixels on their shorter side and cropped in the centre. As in the paper for 256 x 256 pixels:
113.7 M parameters, no dropout, learning rate 2e-5; variance fixed_small, as in its public code and unlike CIFAR-10. No
flips, which the paper states for bedrooms (a comment in its code: for cats).
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 2_400_000
    c.batch_size = 64
    c.data.update(name="folder", flip=False, workers=8, shape=(256, 256, 3), levels=256)
    c.data.folder.update(path="data/lsun_bedroom", size=(256, 256), heldout_fraction=0.001)
    c.network.unet.update(channels=128, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, attention=(16,), dropout=0.0)
    c.prediction.variance = "fixed_small"
    c.optimizer.update(learning_rate=2e-5, warmup_steps=5000)
    c.ema.ramp = 0.0
    c.sampler.tile = 16
    c.checkpoint.update(every=10_000, keep_every=200_000)
    c.report.update(samples_every=50_000, num_samples=16)
    c.eval.max_examples = 2_000
    return config.variant(c, variant)
