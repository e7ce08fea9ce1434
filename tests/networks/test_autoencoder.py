"""Halves of a U-Net as autoencoder and as GAN: shapes, dropout, and sizes that cannot be halved."""

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.networks.autoencoder import VAE
from diffusion_jax.networks.gan import GAN

SMALL = {"channels": 8, "multipliers": (1, 2, 2), "data_shape": (12, 8, 3), "attention": (6,)}
X = jnp.zeros((2, 12, 8, 3))


def shapes(net, method, x, keys=None):
    """Shape of what a method of a network returns; nothing is computed."""

    def called(x):
        params = net.init(jax.random.key(0), X, jnp.zeros(2))
        return net.apply(params, x, keys, method=method)

    return jax.eval_shape(called, x).shape


@pytest.mark.parametrize(("flat", "latent"), [(True, (1, 1, 5)), (False, (3, 2, 5))])
def test_shapes_of_an_autoencoder(flat, latent):
    net = VAE(6, latent_channels=5, flat=flat, dropout=0.1, remat=True, **SMALL)
    keys = jax.random.split(jax.random.key(0), 2)
    assert net.latent_shape == latent
    assert shapes(net, "encode", X, keys) == (2, *latent[:2], 10)
    assert shapes(net, "decode", jnp.zeros((2, *latent)), keys) == (2, 12, 8, 6)


@pytest.mark.parametrize(("flat", "latent"), [(True, (1, 1, 5)), (False, (3, 2, 5))])
def test_shapes_of_a_gan(flat, latent):
    net = GAN(3, latent_channels=5, flat=flat, **SMALL)
    assert net.latent_shape == latent
    assert shapes(net, "generate", jnp.zeros((2, *latent))) == (2, 12, 8, 3)
    assert shapes(net, "discriminate", X) == (2,)


@pytest.mark.parametrize("kind", [VAE, GAN])
def test_sizes_that_cannot_be_halved_are_refused(kind):
    net = kind(3, **SMALL | {"data_shape": (12, 10, 3)})
    with pytest.raises(ValueError, match=f"{kind.__name__.lower()}.*width 10"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((2, 12, 10, 3)), jnp.zeros(2))
