"""The classifier of noisy images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks.encoder import Encoder

OPTIONS = {"out_channels": 10, "channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0}


def test_it_gives_logits_that_depend_on_image_and_time():
    net, x = Encoder(**OPTIONS), jax.random.normal(jax.random.key(0), (3, 8, 8, 1))

    @jax.jit
    def logits(x):
        params = net.init(jax.random.key(1), x, jnp.zeros(3))
        params = jax.tree.map(lambda w: w + 0.1, params)  # so that no branch is silent
        return net.apply(params, x, jnp.zeros(3)), net.apply(params, x, jnp.full(3, 500.0))

    early, late = logits(x)
    assert early.shape == (3, 10) and np.ptp(early, axis=0).max() > 1e-3
    assert np.abs(early - late).max() > 1e-3


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="height"):
        jax.eval_shape(Encoder(**OPTIONS).init, jax.random.key(0), jnp.zeros((1, 9, 8, 1)), jnp.zeros(1))
