"""Class-conditional DDPM on Fashion-MNIST with label dropout, for classifier-free guidance.

Run:    python -m diffusion_jax.main train --config=configs/fashion_cond.py --workdir=runs/fashion_cond
        python -m diffusion_jax.main sample --workdir=runs/fashion_cond --label=5 --guidance.scale=2
Expect: held-out loss 0.0412; in the features of grey28 the Fréchet distance of 2,000 samples of 15 calls is 0.843, and
        with guidance.scale=2 the requested class is found in 90.3 % of 400 samples (measured). With train_steps=8000
        these are 0.0375, 0.363 and 95.3 % (measured)
Time:   3,000 steps: 33 minutes; 8,000: two hours, on two CPU cores beside other work (measured)

Data and variant :gpu as for configs/fashion_ddpm.py.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "gpu" for one GPU, "tiny" for tests."""
    c = config.load(f"fashion_ddpm:{variant}")
    if not variant:
        c.train_steps = 3000
    c.network.update(conditional=True, label_dropout=0.1)
    c.guidance.name = "classifier_free"
    return c
