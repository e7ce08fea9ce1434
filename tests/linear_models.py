"""Linear autoencoder and GAN, as networks of a config; the density of a normal distribution."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from diffusion_jax.declarations import declare


@declare(autoencoder=True)
class LinearVAE(nn.Module):
    """q(z | x) = N(E x + e, exp(f)) and p(x | z) = N(W z + w, exp(v)), all of them parameters."""

    out_channels: int
    data_shape: tuple[int, ...] = ()
    latents: int = 2

    @property
    def latent_shape(self):
        return (self.latents,)

    def setup(self):
        self.encoder = nn.Dense(self.latents)
        self.decoder = nn.Dense(math.prod(self.data_shape))
        self.log_vars = self.param("log_vars", nn.initializers.zeros, 2)

    def encode(self, x, keys=None):
        mean = self.encoder(x.reshape(len(x), -1))
        return jnp.concatenate([mean, jnp.full_like(mean, 1) * self.log_vars[0]], axis=-1)

    def decode(self, z, keys=None):
        mean = self.decoder(z).reshape(len(z), *self.data_shape)
        return jnp.concatenate([mean, jnp.full_like(mean, 1) * self.log_vars[1]], axis=-1)

    def __call__(self, x, time, label=None, keys=None):
        return self.decode(self.encode(x)[..., : self.latents])


@declare(adversarial=True)
class LinearGAN(nn.Module):
    """A generator W z + w, and a discriminator a . x + b."""

    out_channels: int
    data_shape: tuple[int, ...] = ()
    latents: int = 2

    @property
    def latent_shape(self):
        return (self.latents,)

    def setup(self):
        self.generator = nn.Dense(math.prod(self.data_shape))
        self.discriminator = nn.Dense(1)

    def generate(self, z, keys=None):
        return self.generator(z).reshape(len(z), *self.data_shape)

    def discriminate(self, x, keys=None):
        return self.discriminator(x.reshape(len(x), -1))[:, 0]

    def __call__(self, x, time, label=None, keys=None):
        return self.generate(jnp.zeros((len(x), self.latents))), self.discriminate(x)


def gaussian(mean, cov):
    """-log density in nats of N(mean, cov) as a function of x [B,D]."""
    inverse, (_, log_det) = np.linalg.inv(cov), np.linalg.slogdet(2 * np.pi * cov)

    def nats(x):
        return 0.5 * (log_det + np.einsum("bi,ij,bj->b", x - mean, inverse, x - mean))

    return nats
