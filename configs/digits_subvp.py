"""The sub-VP diffusion on the embedded digits: Song et al. 2021, as configs/digits_vp.py but for the schedule.

Run:    python -m diffusion_jax.main train --config=configs/digits_subvp.py --workdir=runs/digits_subvp
Expect: a picture like that of configs/digits.py (its figures were not measured)
Time:   1,500 steps of the network of configs/digits.py (not measured)

Less noise than VP at every t, which makes for better likelihoods.
"""

from ml_collections import ConfigDict

from configs import defaults, digits_vp


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = digits_vp.get_config()
    c.schedule.name = "subvp"
    return defaults.variant(c, variant)
