"""A DDPM of the embedded digits that is told the class, and sometimes not: for classifier-free guidance.

Run:    python -m diffusion_jax.main train --config=configs/digits_cond.py --workdir=runs/digits_cond
        python -m diffusion_jax.main sample --workdir=runs/digits_cond --label=3 --guidance.scale=2
Expect: not measured
Time:   not measured
"""

from ml_collections import ConfigDict

from configs import defaults, digits


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = digits.get_config()
    c.network.update(conditional=True, label_dropout=0.1)
    c.guidance.name = "classifier_free"
    return defaults.variant(c, variant)
