"""Class-conditional DDPM on the embedded digits with label dropout, for classifier-free guidance.

Run:    python -m diffusion_jax.main train --config=configs/digits_cond.py --workdir=runs/digits_cond
        python -m diffusion_jax.main sample --workdir=runs/digits_cond --label=3 --guidance.scale=2
Expect: held-out loss 0.073 (measured). 1,000 samples of 100 steps: at guidance scales 1, 2, 4 an SVM assigns
        97.7, 100, 100 % to the requested class, with 0.84, 0.64, 0.51 of the diversity of a class (measured)
Time:   2,500 steps; 6 minutes on one CPU core (measured)

    python -m diffusion_jax.main evaluate --workdir=runs/digits_cond --scales=0,1,2,4 --sampler.num_steps=100
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("digits")
    c.network.update(conditional=True, label_dropout=0.1)
    c.guidance.name = "classifier_free"
    return config.variant(c, variant)
