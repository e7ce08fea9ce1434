"""DDPM on a folder of your own images, 64 x 64 pixels.

Run:    python -m diffusion_jax.main train --config=configs/folder.py --workdir=runs/folder \\
            --config.data.folder.path=DIR
Expect: samples in runs/folder/images (not measured)
Time:   500,000 steps; one or two days on a GPU (an estimate; not measured)

PNG, JPEG, WebP, BMP and TIFF files, sub-folders included. Images are scaled to the size on their shorter side and
cropped in the centre; the alternatives are --config.data.folder.resize=stretch and none. Height and width may differ.
Grey images: --config.data.folder.channels=1. About a tenth of the files is held out. Images are not mirrored, since
letters, flags and signs have a left and a right; --config.data.flip=True mirrors half of them.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 500_000
    c.batch_size = 64
    c.require_accelerator = False
    c.data.update(name="folder", flip=False, workers=4)
    c.data.folder.update(path="data/images", size=(64, 64), resize="center_crop")
    c.network.unet.update(channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1)
    c.optimizer.update(learning_rate=1e-4, warmup_steps=5000)
    c.checkpoint.update(every=10_000, keep_every=100_000)
    return config.variant(c, variant)
