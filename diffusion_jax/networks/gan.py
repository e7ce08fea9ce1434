"""Generator and discriminator of a GAN: the two halves of a U-Net."""

import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.networks.autoencoder import Falling, Half, Rising, options_of
from diffusion_jax.networks.layers import Array


@declare(adversarial=True)
class GAN(Half):
    """Generator z [B,1,1,c] -> [B,H,W,out_channels], and discriminator [B,H,W,C] -> logits [B].

    Options as of `UNet`, and `latent_channels`, c. flat=False: z is a map [B,h,w,c] of the lowest level, and so are the
    logits before their mean. Reference: Goodfellow et al. 2014.
    """

    latent_channels: int = 64
    flat: bool = True

    def setup(self) -> None:
        """Make generator and discriminator."""
        self.generator = Rising(self.out_channels, **options_of(self))
        self.discriminator = Falling(1, **options_of(self))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of z of an example."""
        return (1, 1, self.latent_channels) if self.flat else (*self.lowest[:2], self.latent_channels)

    def generate(self, z: Array, keys: Array | None = None) -> Array:
        """Return samples [B,H,W,out_channels] for z [B,h,w,c]."""
        return self.generator(z, keys)

    def discriminate(self, x: Array, keys: Array | None = None) -> Array:
        """Return logits [B] of x [B,H,W,C] being data."""
        return self.discriminator(x, keys).mean((1, 2, 3))

    def __call__(
        self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None
    ) -> tuple[Array, Array]:
        """Return a sample for a z of zeros, and the logit of x. time and label are not used."""
        return self.generate(jnp.zeros((len(x), *self.latent_shape), x.dtype), keys), self.discriminate(x, keys)
