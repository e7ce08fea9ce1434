"""DDPM on LSUN cats at 256 x 256 pixels: Ho et al. 2020, 113.7 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/lsun_cat256.py --workdir=runs/lsun_cat256
Expect: FID 19.75 (reported by the paper, table 3; not measured here)
Time:   1,800,000 steps; 2.2 steps/s on a TPU v3-8 (reported by the paper, appendix B; not measured here)

The data: a folder of images. LSUN comes as LMDB, unpacked by the export command of its own tools (github.com/fyu/lsun):
    python data.py export cat_train_lmdb --out_dir data/lsun_cat
Images are scaled to 256 pixels on their shorter side and cropped in the centre. Everything else is as in
configs/lsun_bedroom256.py, with flips: the paper omits them for bedrooms only, a comment in its public code for cats.
To follow the comment: --config.data.flip=False.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("lsun_bedroom256")
    c.train_steps = 1_800_000
    c.data.flip = True
    c.data.folder.path = "data/lsun_cat"
    return config.variant(c, variant)
