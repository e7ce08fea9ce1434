"""The swiss roll of Sohl-Dickstein et al. 2015: Gaussian diffusion in 40 steps with learned rates.

Run:    python -m diffusion_jax.main train --config=configs/dpm2015_swissroll.py --workdir=runs/swissroll
        python -m diffusion_jax.main evaluate --workdir=runs/swissroll --likelihood=K
Expect: K = -1.395 ± 0.015 bits, 2.700 above the null model, 0.185 below -H of the data, which is -1.210 (measured; the
        paper reports 2.35 and 6.45, without the noise of its roll)
Time:   257 s to train, 127 s to evaluate (measured on two busy CPU cores)

With more steps and fixed rates the bound is close to its limit, configs/dpm2015_swissroll.py:fine, T = 300:
K = -1.262 ± 0.010 bits, 0.052 below -H of the data, 0.041 below -H(x_1); 283 s to train, 29 s to evaluate (measured
with JAX_NUM_CPU_DEVICES=2 on two idle CPU cores; 546 s with one device on busy ones).
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "fine" has 300 steps, "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 12_000
    c.batch_size = 512
    c.data.name = "toy2d"
    c.data.toy2d.update(kind="swissroll", size=100_000)
    c.process.num_steps = 40
    c.schedule.name = "learned_betas"
    c.schedule.learned_betas.first_beta = c.schedule.dpm2015.first_beta = 1e-4
    c.network.name = "mlp"
    c.network.mlp.update(width=64, depth=3)
    c.prediction.update(target="dpm2015_code", variance="dpm2015_paper")
    c.loss.name = "K"
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=4e-3, warmup_steps=100, grad_clip=0.0)
    c.ema.update(decays=(0.999,), ramp=0.0)
    c.sampler.update(clip_x0=False, grid="to_first", denoise=False, tile=2000)
    c.bound.clip_x0 = False
    c.checkpoint.every = 4000
    c.report.update(samples_every=12_000, num_samples=2000)
    c.eval.update(every=4000, max_examples=20_000, num_samples=0)
    if variant == "fine":
        c.update(train_steps=15_000, batch_size=1024)
        c.process.num_steps = 300
        c.schedule.name = "linear_logsnr"
        c.schedule.linear_logsnr.update(gamma_min=-10.5, gamma_max=6.0)
        c.network.mlp.width = 128
        c.optimizer.learning_rate = 2e-3
        c.ema.decays = (0.9995,)
        c.report.samples_every = 15_000
        variant = ""
    return config.variant(c, variant)
