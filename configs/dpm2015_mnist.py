"""MNIST by Gaussian diffusion as in the public code of Sohl-Dickstein et al. 2015, with the bound K.

Run:    python -m diffusion_jax.main train --config=configs/dpm2015_mnist.py --workdir=runs/dpm2015_mnist
        python -m diffusion_jax.main evaluate --workdir=runs/dpm2015_mnist --likelihood=K
Expect: 317 ± 2.7 bits by Parzen windows on samples (reported by the paper), a different quantity than K
Time:   500,000 steps of 512 images, as in the public code; needs a GPU (not measured here)

Data: data/mnist with the four IDX files. Images are scaled to unit variance by one constant and dequantised by uniform
noise of the width of a grey level.
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 500_000
    c.batch_size = 512
    c.require_accelerator = variant != "tiny"
    c.data.update(name="idx", shape=(28, 28, 1), levels=256, classes=10, mean=-0.739, std=0.616, dequantise=True)
    c.data.idx.update(path="data/mnist", classes=10)
    c.process.num_steps = 1000
    c.schedule.name = "dpm2015"
    c.schedule.dpm2015.first_beta = 0.002
    c.network.name = "multiscale"
    c.network.multiscale.update(conv_layers=4, features=20, scales=1, dense_layers=4, dense_width=500, dense_features=2)
    c.network.multiscale.update(upper_layers=2, upper_features=20)
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
