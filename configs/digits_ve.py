"""VE SDE on the embedded digits, in continuous time: Song et al. 2021 at the size of configs/digits.py.

Run:    python -m diffusion_jax.main train --config=configs/digits_ve.py --workdir=runs/digits_ve
Expect: held-out loss 0.255; of 500 samples in 100 ancestral steps SVM confidence relative to real digits 0.978,
        rarest class 8.2 % (measured); some backgrounds are a shade too light
Time:   174 s on 2 CPU cores with JAX_NUM_CPU_DEVICES=2 (measured, with other work at low priority)

sigma_max = 10 is about the largest distance between two training digits (9.6, in [-1, 1]), the rule of Song and Ermon
2020. The input of the network is x_t divided by its standard deviation, which a network this small needs, unlike
theirs.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.load("digits")
    c.train_steps = 1500
    c.process.num_steps = 0
    c.schedule.name = "ve"
    c.schedule.ve.update(sigma_min=0.02, sigma_max=10.0)
    c.network.conditioning = "log_sigma"
    c.prediction.update(input_scaling="unit_variance", sigma_data=0.75)
    c.times.min_t = 1e-5
    c.sampler.num_steps = 250
    return config.variant(c, variant)
