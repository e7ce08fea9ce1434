"""NCSN on CIFAR-10: Song and Ermon 2019, ten levels of noise, 30.1 M parameters.

Run:    python -m diffusion_jax.main train --config=configs/cifar10_ncsn.py --workdir=runs/cifar10_ncsn
Expect: FID 25.32, Inception score 8.87 with 50,000 samples (reported by the paper, table 1; not measured here)
Time:   200,000 steps (the public code; not measured here)

Denoising score matching at every level (eq. 6, weights sigma²); annealed Langevin dynamics with 100 steps per level
from the largest noise on, 1,000 network calls; the noise of the last level remains. The public code has data in [0, 1]
and sigma from 0.01 to 1; here data are in [-1, 1], hence sigma from 0.02 to 2, and the score is half of theirs. Its
step is 2e-5 sigma²/sigma_min² on the score, which is snr²=0.1 here (the paper's algorithm 1 has half of it). It starts
from uniform noise, this recipe from N(0, sigma_max² + 1). The paper selected the checkpoint with the lowest FID of
1,000 samples.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("cifar10_ddpm")
    c.train_steps = 200_000
    c.data.dequantise = True
    c.process.num_steps = 10
    c.schedule.name = "geometric"
    c.schedule.geometric.update(sigma_min=0.02, sigma_max=2.0)
    c.network.name = "ncsn"
    c.prediction.target = "score"
    c.loss.update(name="snr", reduction="half_sum")  # of the error of eps, sigma times that of the score
    c.optimizer.update(learning_rate=1e-3, warmup_steps=0, grad_clip=0.0)
    c.ema.decays = ()
    c.bound.clip_x0 = False
    c.sampler.update(name="annealed_langevin", grid="to_first", clip_x0=False, denoise=False)
    c.sampler.annealed_langevin.update(snr=0.1**0.5, steps=100, at_start=True)
    return config.variant(c, variant)
