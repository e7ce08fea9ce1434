"""Small configs and helpers for tests."""

import jax
import jax.numpy as jnp

from diffusion_jax import config as configs
from diffusion_jax.experiment import wiring

CONTINUOUS = {"process__num_steps": 0, "schedule__name": "vp", "network__conditioning": "time", "sampler__num_steps": 5}
BITS = {"data__levels": 2, "process__name": "binomial", "schedule__name": "harmonic", "loss__name": "K"}
BITS |= {"prediction__target": "x0", "prediction__variance": "fixed_small"}
LEVELS = {"process__name": "categorical", "schedule__name": "harmonic", "loss__name": "vlb"}
LEVELS |= {"prediction__target": "x0", "prediction__variance": "fixed_small"}
MASKED = LEVELS | {"process__num_steps": 0, "schedule__name": "polynomial", "loss__name": "masked"}
MASKED |= {"process__categorical__noise": "absorbing", "network__conditioning": "time", "sampler__num_steps": 4}
CLASSIFIER = {"loss__name": "cross_entropy", "network__name": "mlp", "report__samples_every": 0, "data__shape": (5,)}


def config(**changes):
    c = configs.variant(configs.defaults(), "tiny")
    c.data.update(shape=(8, 8, 1), levels=17, classes=10)
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        node = c
        for part in filter(None, section.split("__")):
            node = node[part]
        with node.unlocked():
            node[key] = value
    return c


def loss_at_rest(experiment, params, rows, t, keys):
    """The loss of a batch at rest, as the train step computes it."""
    return experiment.loss(params, rows | {"x0": experiment.to_model(rows["x0"], keys)}, t, keys)


def zeros(c, guide=None):
    """Parameters that are all 0."""
    shapes = wiring.parameters(c, wiring.build(c, guide=guide).network)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
