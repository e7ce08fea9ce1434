"""Dead leaves, 32 x 32, by multi-scale convolutions as in Sohl-Dickstein et al. 2015, at a size for two CPU cores.

Run:    python -m diffusion_jax.main train --config=configs/dpm2015_deadleaves.py --workdir=runs/deadleaves
        python -m diffusion_jax.main evaluate --workdir=runs/deadleaves --likelihood=K
Expect: K = 0.514 ± 0.041 bits/pixel, 2.561 above the null model, on 64 held-out images (measured; the paper reports
        1.489 and 3.536, and 1.244 for an MCGSM)
Time:   536 s to train, 155 s to evaluate (measured on two busy CPU cores); 60 s and 13 s on an H100 shared with three
        other runs, K = 0.510 ± 0.041 there

The paper does not describe its images. Ours have hard edges, radii from 2 to 32 pixels and 256 uniform grey levels,
dequantised; the two pairs of values are not for the same data. configs/dpm2015_deadleaves.py:paper has the sizes of
the paper's network and needs a GPU (not measured here).
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "paper" is at the paper's size, "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 4000
    c.batch_size = 16
    c.data.update(name="dead_leaves", std=0.5796, dequantise=True)
    c.process.num_steps = 1000
    c.schedule.name = "dpm2015"
    c.network.name = "multiscale"
    c.network.multiscale.update(conv_layers=4, features=24, scales=3, dense_layers=0, upper_layers=2, upper_features=48)
    c.prediction.update(target="dpm2015_code", variance="dpm2015_code")
    c.loss.name = "K"
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=2e-3, warmup_steps=200, grad_clip=0.0)
    c.ema.update(decays=(0.995,), ramp=0.0)
    c.sampler.update(clip_x0=False, grid="to_first", denoise=False, tile=16)
    c.bound.clip_x0 = False
    c.checkpoint.every = 2000
    c.report.update(samples_every=0)
    c.eval.update(every=1000, max_examples=64, num_samples=0)
    if variant == "paper":
        c.update(train_steps=500_000, batch_size=128, require_accelerator=True)
        c.network.multiscale.update(conv_layers=6, features=100, dense_layers=2, upper_layers=4, upper_features=100)
        c.optimizer.update(learning_rate=1e-3, warmup_steps=1000)
        c.ema.decays = (0.9999,)
        c.sampler.tile = 64
        c.checkpoint.every = 10_000
        c.eval.update(every=10_000, max_examples=1000)
        variant = ""
    return config.variant(c, variant)
