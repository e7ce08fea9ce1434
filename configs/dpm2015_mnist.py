"""MNIST by Gaussian diffusion as in the public code of Sohl-Dickstein et al. 2015, with the bound K.

Run:    python -m diffusion_jax.main train --config=configs/dpm2015_mnist.py --workdir=runs/dpm2015_mnist
        python -m diffusion_jax.main evaluate --workdir=runs/dpm2015_mnist --likelihood=K --metrics=parzen \\
            --num_samples=10000 --sampler.num_steps=100
Expect: 31.8 ± 2.2 bits by Parzen windows on 10,000 samples (measured); the paper reports 317 ± 2.7 after 400 times as
        many training images
Time:   35 minutes, and 18 for the samples, on one CPU core beside other work (measured)

Network, kernel, diffusion rates and bound are those of the public code. The variant :paper also has its 500,000 steps
of 512 images, and needs a GPU (not measured here). This recipe takes 20,000 steps of 32 images, and its learning rate
decays.

Data: data/mnist with the four IDX files. Images are scaled to unit variance by one constant and dequantised by uniform
noise of the width of a grey level.
"""

from ml_collections import ConfigDict

from diffusion_jax import config

PAPER = {
    "train_steps": 500_000,
    "batch_size": 512,
    "require_accelerator": True,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 1000,
    "optimizer.schedule": "constant",
    "ema.decays": (0.9999,),
    "ema.ramp": 0.0,
    "checkpoint.every": 10_000,
    "report.samples_every": 50_000,
    "eval.every": 10_000,
    "eval.max_examples": 10_000,
}
"""A variant for one GPU: the sizes of the public code."""


def get_config(variant: str = "") -> ConfigDict:
    """The recipe for two CPU cores; variant "paper" for one GPU, "tiny" for tests."""
    c = config.defaults()
    c.train_steps = 20_000
    c.batch_size = 32
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
    c.optimizer.update(learning_rate=2e-3, warmup_steps=200, schedule="cosine")
    c.ema.update(decays=(0.998,), ramp=0.1)
    c.sampler.update(clip_x0=False, grid="to_first", denoise=False)
    c.bound.clip_x0 = False
    c.checkpoint.every = 2000
    c.report.samples_every = 0
    c.eval.update(every=2000, max_examples=1000, num_samples=0)
    return config.variant(c, variant, paper=PAPER)
