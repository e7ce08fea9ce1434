"""DDPM on the 1,797 handwritten digits that ship with scikit-learn: offline, on two CPU cores, in minutes.

Run:    python -m diffusion_jax.main train --config=configs/digits.py --workdir=runs/digits
Expect: held-out loss 0.083 (measured); sample quality in docs/results/digits.md
Time:   212 s on 2 CPU cores with JAX_NUM_CPU_DEVICES=2 (measured; 2,500 steps, compilation included)
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 2500
    c.batch_size = 32
    c.network.unet.update(channels=32, multipliers=(1, 2), blocks=1, attention=(), dropout=0.0)
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=2e-3, warmup_steps=200)
    c.ema.update(decays=(0.998,), ramp=0.0)
    c.sampler.tile = 32
    c.checkpoint.every = 500
    c.report.update(samples_every=1000, num_samples=64, sampler_steps=100)
    c.eval.update(every=500, svm=True)
    return config.variant(c, variant)
