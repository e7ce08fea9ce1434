"""Diffusion model of Fashion-MNIST trained on the whole bound, for likelihood rather than sample quality.

Run:    python -m diffusion_jax.main train --config=configs/fashion_vlb.py --workdir=runs/fashion_vlb
        python -m diffusion_jax.main evaluate --workdir=runs/fashion_vlb --likelihood=vlb --num_samples=0
Expect: held-out loss 3.213 bits/dim on the 10,000 test images (measured)
Time:   51 minutes on two CPU cores beside other work (measured)

The lowest noise level is well below a grey level, as the last term of the bound is not trained. Data and variant :gpu
as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load(f"fashion_ddpm:{variant}")
    if not variant:
        c.train_steps = 5000
    c.schedule.name = "linear_logsnr"
    c.schedule.linear_logsnr.update(gamma_min=-13.3, gamma_max=5.0)
    c.network.unet.fourier = (6, 7)
    c.prediction.variance = "fixed_small"
    c.loss.name = "vlb"
    c.bound.update(clip_x0=False, num_examples=2000 if variant == "gpu" else 200)
    return c
