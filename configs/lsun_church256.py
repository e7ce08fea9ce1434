"""DDPM on LSUN churches at 256 x 256 pixels: Ho et al. 2020, 113.7 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/lsun_church256.py --workdir=runs/lsun_church256
Expect: FID 7.89 (reported by the paper, table 3; not measured here)
Time:   1,200,000 steps; 2.2 steps/s on a TPU v3-8 (reported by the paper, appendix B; not measured here)

The data: a folder of images. LSUN comes as LMDB, unpacked by the export command of its own tools (github.com/fyu/lsun):
    python data.py export church_outdoor_train_lmdb --out_dir data/lsun_church
Images are scaled to 256 pixels on their shorter side and cropped in the centre.
Everything else is as in configs/lsun_bedroom256.py, with flips.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("lsun_bedroom256")
    c.train_steps = 1_200_000
    c.data.flip = True
    c.data.folder.path = "data/lsun_church"
    return config.variant(c, variant)
