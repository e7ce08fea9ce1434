"""Target and objective: Ho et al. 2020, table 2.

Run:    python -m diffusion_jax.main sweep --sweep=configs/sweeps/ddpm_table2.py:digits --workdir=runs/table2_digits
        python -m diffusion_jax.main compare runs/table2_digits
        Without ":digits": CIFAR-10 at the size of the paper, after `main prepare --config=configs/cifar10_ddpm.py`.
Expect: on CIFAR-10, Inception score and FID (reported by the paper; not measured here. There the sweep evaluates the
        bound only, without samples):

    mean_vlb_learned    7.28 ± 0.10    23.69
    mean_vlb_fixed      8.06 ± 0.09    13.22
    mean_simple         unstable to train
    eps_vlb_learned     unstable to train
    eps_vlb_fixed       7.67 ± 0.13    13.51
    eps_simple          9.46 ± 0.11     3.17    (3.75 bits/dim; 3.70 for the bound with fixed variance)

        With ":digits", bits/dim and the Fréchet distance of pixels, where held-out digits have 36.0 (measured):

    mean_vlb_learned    5.01  ± 0.11     130.5 ± 5.3
    mean_vlb_fixed      4.437 ± 0.027    162.9 ± 9.1
    mean_simple         4.175 ± 0.034    137.7 ± 3.6
    eps_vlb_learned     2.891 ± 0.068    227.3 ± 2.5
    eps_vlb_fixed       2.691 ± 0.003     98.2 ± 1.6
    eps_simple          2.613 ± 0.005     51.0 ± 2.6

Time:   six cells at three seeds; at the paper's size, 800,000 steps each; on digits about 70 minutes of one core

The network predicts eps or the posterior's mean ("mean"); it minimises the bound ("vlb"), with a learned diagonal or
the fixed isotropic variance, or the unweighted squared error of what it predicts ("simple").
"""

from typing import Any

from diffusion_jax import config

CELLS = {
    f"{short}_{loss}": {"prediction.target": target, **keys}
    for short, target in (("mean", "posterior_mean"), ("eps", "eps"))
    for loss, keys in {
        "vlb_learned": {"loss.name": "vlb", "prediction.variance": "learned_diagonal"},
        "vlb_fixed": {"loss.name": "vlb", "prediction.variance": "fixed_large"},
        "simple": {"loss.name": "simple", "prediction.variance": "fixed_large"},
    }.items()
}
NOTE = "After Ho et al. 2020, table 2, which reports mean_simple and eps_vlb_learned on CIFAR-10 as unstable to train."


def get_sweep(variant: str = "") -> dict[str, Any]:
    """The grid: "" at the paper's size, "digits" for two cores, "tiny" for tests."""
    paper = {"config": "cifar10_ddpm", "flags": {}, "evaluate": ("--likelihood=vlb",)}
    return config.sweep_variant(variant, paper, CELLS, NOTE)
