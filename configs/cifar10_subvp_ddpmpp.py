"""DDPM++ on CIFAR-10 with the sub-VP SDE, for likelihood: Song et al. 2021, 61.8 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_subvp_ddpmpp.py --workdir=runs/cifar10_subvp
Expect: FID and Inception score of 50,000 samples (reported by the public code of the paper; not measured here):

    default      2.61    9.56    3.02 bits/dim; FID 3.16 with the ODE
    :deep        2.41    9.57    2.99 bits/dim; FID 2.92 with the ODE; 106.6 M parameters

Time:   1,300,000 steps, 950,000 of :deep (reported; not measured here)

Everything but the schedule is as in configs/cifar10_vp_ddpmpp.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "deep" has twice the blocks, "tiny" is for tests."""
    c = config.load("cifar10_vp_ddpmpp")
    c.schedule.name = "subvp"
    return config.variant(c, variant, deep={"network.ncsnpp.blocks": 8, "train_steps": 950_000})
