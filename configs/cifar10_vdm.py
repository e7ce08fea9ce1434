"""Variational diffusion model (VDM) on CIFAR-10, trained for likelihood: Kingma et al. 2021, 30.6 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_vdm.py --workdir=runs/cifar10_vdm
Expect: 2.65 bits/dim (reported by the paper, table 1), 2.637 (reported by its public code; not measured here)
Time:   10,000,000 steps (reported; not measured here)

The loss is the bound in continuous time, in bits/dim. gamma = log(sigma²/alpha²) is linear in t with learned ends,
initially -13.3 and 5: two of the 30,578,181 parameters. Data: see configs/cifar10_ddpm.py; no flips, as in the paper.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("cifar10_ddpm")
    c.train_steps = 10_000_000
    c.data.flip = False
    c.process.num_steps = 0
    c.schedule.name = "learned_gamma"
    c.network.update(name="vdm", conditioning="time")
    c.network.vdm.dropout = 0.1
    c.prediction.variance = "fixed_small"
    c.loss.name = "vdm"
    c.times.name = "low_discrepancy"
    c.bound.update(decoder="softmax", clip_x0=False, num_steps=1000)
    c.optimizer.update(warmup_steps=100, grad_clip=0.0)
    c.optimizer.adam.update(b2=0.99, weight_decay=0.01)
    c.sampler.update(num_steps=1000, clip_x0=False)
    return config.variant(c, variant)
