"""CIFAR-10 by Gaussian diffusion as in Sohl-Dickstein et al. 2015: their network, their kernel, the bound K.

Run:    python -m diffusion_jax.main train --config=configs/dpm2015_cifar10.py --workdir=runs/dpm2015_cifar10
        python -m diffusion_jax.main evaluate --workdir=runs/dpm2015_cifar10 --likelihood=K
Expect: K = 5.4 ± 0.2 bits/pixel, 11.5 ± 0.2 above the null model (reported by the paper, table 1; not measured here)
Time:   850,000 steps of 200 images, as in the public code; needs a GPU (not measured here)

Data: python -m diffusion_jax.main prepare --config=configs/dpm2015_cifar10.py, once, with a network connection and
TensorFlow. Images are scaled to unit variance by one constant and dequantised by uniform noise of the width of a grey
level; the public code divides that width by the scale instead of multiplying, so the grey levels remain visible in the
data.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 850_000
    c.batch_size = 200
    c.require_accelerator = variant != "tiny"
    c.data.update(name="tfds", shape=(32, 32, 3), levels=256, classes=10, mean=-0.053, std=0.503, dequantise=True)
    c.data.tfds.update(dataset="cifar10", data_dir="data/tfds", in_memory=True)
    c.process.num_steps = 1000
    c.schedule.name = "dpm2015"
    c.schedule.dpm2015.first_beta = 0.002
    c.network.name = "multiscale"
    c.prediction.update(target="dpm2015_code", variance="dpm2015_code")
    c.loss.name = "K"
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=1e-3, warmup_steps=1000)
    c.ema.ramp = 0.0
    c.sampler.update(clip_x0=False, grid="to_first", denoise=False)
    c.bound.clip_x0 = False
    c.report.samples_every = 50_000
    c.eval.num_samples = 0
    return config.variant(c, variant)
