"""DDPM++ on CIFAR-10 with the VP SDE: Song et al. 2021, continuous, 61.8 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_vp_ddpmpp.py --workdir=runs/cifar10_vp
Expect: FID and Inception score of 50,000 samples (reported by the public code of the paper; not measured here):

    default      2.55    9.58    3.16 bits/dim; FID 3.93 with the ODE
    :deep        2.41    9.68    3.13 bits/dim; FID 3.08 with the ODE; 106.6 M parameters
    :discrete    2.78    9.64    a chain of 1000 steps

Time:   1,300,000 steps, 950,000 of :deep (reported; not measured here)

A variant follows the file: --config=configs/cifar10_vp_ddpmpp.py:deep. Likelihood weights (g²):
--config.loss.name=likelihood. Data: see configs/cifar10_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "deep" has twice the blocks, "discrete" a chain, "tiny" is for tests."""
    c = config.load("cifar10_ddpm")
    c.train_steps = 1_300_000
    c.process.num_steps = 0
    c.schedule.name = "vp"
    c.network.update(name="ncsnpp", conditioning="time")
    c.network.ncsnpp.dropout = 0.1
    c.times.min_t = 1e-5
    c.sampler.update(name="euler_maruyama", num_steps=1000, min_t=1e-3)
    deep = {"network.ncsnpp.blocks": 8, "train_steps": 950_000}
    discrete = {"process.num_steps": 1000, "schedule.name": "linear", "network.conditioning": "step"}
    discrete |= {"sampler.name": "ancestral", "sampler.num_steps": 0, "sampler.min_t": 0.0}
    return config.variant(c, variant, deep=deep, discrete=discrete)
