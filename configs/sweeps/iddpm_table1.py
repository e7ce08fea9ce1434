"""Schedule and loss: the ablation of Nichol and Dhariwal 2021 on CIFAR-10.

Run:    python -m diffusion_jax.main sweep --sweep=configs/sweeps/iddpm_table1.py:digits --workdir=runs/table1_digits
        python -m diffusion_jax.main compare runs/table1_digits
        Without ":digits": CIFAR-10 at the size of the paper, after `main prepare --config=configs/cifar10_ddpm.py`.
Expect: on CIFAR-10, bits/dim and FID (reported by the paper; not measured here):

    linear_simple    3.37     2.90
    linear_hybrid    3.26     3.07
    cosine_simple    3.26     3.05
    cosine_hybrid    3.17     3.19
    cosine_vlb       2.94    11.47

        With ":digits", bits/dim and the Fréchet distance of pixels, where held-out digits have 36.0 (measured):

    linear_simple    2.613 ± 0.005     51.0 ± 2.6
    linear_hybrid    2.339 ± 0.005     50.3 ± 2.5
    cosine_simple    2.702 ± 0.006     34.8 ± 1.0
    cosine_hybrid    2.490 ± 0.007     34.9 ± 0.5
    cosine_vlb       2.860 ± 0.052    139   ± 14

Time:   five cells at three seeds; at the paper's size, 500,000 steps each; on digits about 60 minutes of one core

"hybrid" is the simple loss plus 0.001 times the bound, "vlb" the bound with importance sampling of the times; both
learn the variance as an interpolation between the small and the large one; "simple" has the large one. At the size of
the paper T = 4000 (linear betas times 1000/T), without warm-up, clipping and flips, as in its public code; the U-Net is
DDPM's with the paper's width, depth and heads, without its scale-shift norm, and is conditioned on 999 k/T, in the
paper's code on 1000 (k - 1)/T.
"""

from typing import Any

from diffusion_jax import config

LEARNED = {"prediction.variance": "learned_range"}
CELLS = {
    "linear_simple": {"schedule.name": "linear", "loss.name": "simple"},
    "linear_hybrid": {"schedule.name": "linear", "loss.name": "hybrid", **LEARNED},
    "cosine_simple": {"schedule.name": "cosine", "loss.name": "simple"},
    "cosine_hybrid": {"schedule.name": "cosine", "loss.name": "hybrid", **LEARNED},
    "cosine_vlb": {"schedule.name": "cosine", "loss.name": "vlb", **LEARNED, "times.name": "importance"},
}
PAPER = {
    "train_steps": 500_000,
    "data.flip": False,
    "process.num_steps": 4000,
    "schedule.linear.beta_start": 2.5e-5,
    "schedule.linear.beta_end": 0.005,
    "network.conditioning": "time",
    "network.unet.blocks": 3,
    "network.unet.attention": (16, 8),
    "network.unet.heads": 4,
    "network.unet.dropout": 0.3,
    "optimizer.learning_rate": 1e-4,
    "optimizer.warmup_steps": 0,
    "optimizer.grad_clip": 0.0,
}
NOTE = (
    "After the ablation of Nichol and Dhariwal 2021, whose bits/dim on CIFAR-10 fall from 3.37 (top) to 2.94 (bottom)."
)


def get_sweep(variant: str = "") -> dict[str, Any]:
    """The grid: "" at the paper's size, "digits" for two cores, "tiny" for tests."""
    paper = {"config": "cifar10_ddpm", "flags": PAPER, "evaluate": ("--likelihood=vlb",)}
    return config.sweep_variant(variant, paper, CELLS, NOTE)
