"""Binary heartbeats by binomial diffusion, the sequences of Sohl-Dickstein et al. 2015.

Run:    python -m diffusion_jax.main train --config=configs/dpm2015_heartbeat.py --workdir=runs/heartbeat
        python -m diffusion_jax.main evaluate --workdir=runs/heartbeat --likelihood=K
Expect: K = -2.368 ± 0.002 bits/sequence, 12.071 above the null model, at most -2.366 with 2,000 steps;
        99.6 % of 10,000 samples valid, the phases between 19.0 and 21.1 % (measured; the paper: -2.414 and 12.024)
Time:   170 s to train, 215 s to evaluate with 10,000 samples (measured on two busy CPU cores)
"""

from ml_collections import ConfigDict

from diffusion_jax import config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" is for tests."""
    c = config.defaults()
    c.train_steps = 6000
    c.batch_size = 512
    c.data.name = "heartbeat"
    c.process.update(name="binomial", num_steps=2000)
    c.process.binomial.rate = 0.2
    c.schedule.name = "harmonic"
    c.network.name = "mlp"
    c.network.mlp.update(width=64, depth=2)
    c.prediction.update(target="x0", variance="fixed_small")
    c.loss.name = "K"
    c.times.name = "low_discrepancy"
    c.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    c.ema.update(decays=(0.998,), ramp=0.0)
    c.sampler.update(grid="to_first", denoise=False, tile=2000)
    c.checkpoint.every = 3000
    c.report.update(samples_every=6000, num_samples=64, sampler_steps=200)
    c.eval.update(every=2000, max_examples=2000, num_samples=10_000)
    return config.variant(c, variant)
