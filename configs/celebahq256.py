"""DDPM on CelebA-HQ at 256 x 256 pixels: Ho et al. 2020, 113.7 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/celebahq256.py --workdir=runs/celebahq256
Expect: samples as in figure 1 of the paper, which has no FID for this set (not measured here)
Time:   500,000 steps; 2.2 steps/s on a TPU v3-8 (reported by the paper, appendix B; not measured here)

The data: a folder with the 30,000 images, or with --config.data.name=tfds the set of TensorFlow Datasets, prepared by
hand as its page describes. Everything else is as in configs/lsun_bedroom256.py, with flips.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("lsun_bedroom256")
    c.train_steps = 500_000
    c.data.flip = True
    c.data.folder.update(path="data/celebahq", heldout_fraction=0.01)
    c.data.tfds.update(dataset="celeb_a_hq/256", data_dir="data/tfds", train="train[:99%]", heldout="train[99%:]")
    c.data.tfds.label_key = ""
    return config.variant(c, variant)
