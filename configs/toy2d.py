"""DDPM on points in the plane, with a small perceptron: the fastest run of the whole code.

Run:    python -m diffusion_jax.main train --config=configs/toy2d.py --workdir=runs/toy2d
Expect: a ring of eight spots in runs/toy2d/images (not measured)
Time:   5,000 steps of a small perceptron (not measured)

Other densities: --config.data.toy2d.kind=checkerboard, moons or swissroll.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 5000
    c.batch_size = 256
    c.data.name = "toy2d"
    c.process.num_steps = 200
    c.schedule.name = "cosine"
    c.network.name = "mlp"
    c.optimizer.update(learning_rate=1e-3, warmup_steps=200)
    c.ema.decays = (0.999,)
    c.bound.update(decoder="density", clip_x0=False)
    c.sampler.update(clip_x0=False, tile=1000)
    c.checkpoint.every = 2500
    c.report.update(samples_every=2500, num_samples=1000)
    c.eval.every = 2500
    return config.variant(c, variant)
