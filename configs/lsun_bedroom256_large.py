"""DDPM on LSUN bedrooms at 256 x 256 pixels, the large model: Ho et al. 2020.

Run:    python -m diffusion_jax.main train --config=configs/lsun_bedroom256_large.py \\
            --workdir=runs/lsun_bedroom256_large
Expect: FID 4.90 (reported by the paper, table 3; not measured here)
Time:   1,150,000 steps (reported by the paper, appendix B; not measured here)

The paper states about 256 M parameters; 192 channels give 255,677,955, very likely its model. Everything else is as in
configs/lsun_bedroom256.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("lsun_bedroom256")
    c.train_steps = 1_150_000
    c.network.unet.channels = 192
    return config.variant(c, variant)
