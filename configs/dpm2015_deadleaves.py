"""Dead leaves, 32 x 32, by multi-scale convolutions as in Sohl-Dickstein et al. 2015, at a size for two CPU cores.

Run:    python -m diffusion_jax.main train --config=configs/dpm2015_deadleaves.py --workdir=runs/deadleaves
        python -m diffusion_jax.main evaluate --workdir=runs/deadleaves --likelihood=K
Expect: K = 0.514 ± 0.041 bits/pixel, 2.561 above the null model, on 64 held-out images (measured; the paper reports
        1.489 and 3.536, and 1.244 of an MCGSM); more steps raise it
Time:   536 s to train, 155 s to evaluate (measured on two CPU cores that were busy with other work)

The paper does not say how its images were made; ours have hard edges, radii from 2 to 32 pixels and 256 uniform levels,
dequantised, so the two rows of figures are not of the same data. At the paper's size, for a GPU (not measured here):
--config.network.multiscale.conv_layers=6 --config.network.multiscale.features=100 --config.network.multiscale.\
dense_layers=2 --config.network.multiscale.upper_layers=4 --config.network.multiscale.upper_features=100 \
--config.batch_size=128 --config.train_steps=500000 --config.optimizer.learning_rate=1e-3
"""

from ml_collections import ConfigDict

from configs import defaults


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = defaults.get_config()
    c.train_steps = 4000
    c.batch_size = 16
    c.data.update(name="dead_leaves", std=0.5796, dequantise=True)
    c.process.num_steps = 1000
    c.schedule.name = "dpm2015"
    c.network.name = "multiscale"
    c.network.multiscale.update(conv_layers=4, features=24, scales=3, dense_layers=0, upper_layers=2, upper_features=48)
    c.prediction.update(target="dpm2015_code", variance="dpm2015_code")
    c.loss.name = "K"
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=2e-3, warmup_steps=200, grad_clip=0.0)
    c.ema.decays = (0.995,)
    c.sampler.update(clip_x0=False, grid="to_first", denoise=False, tile=16)
    c.bound.clip_x0 = False
    c.checkpoint.every = 2000
    c.report.update(samples_every=0)
    c.eval.update(every=1000, max_examples=64, num_samples=0)
    return defaults.variant(c, variant)
