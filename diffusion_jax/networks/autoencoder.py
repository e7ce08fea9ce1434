"""Variational autoencoder: the downward and the upward half of a U-Net, without skip connections.

Latents are [B,h,w,c]: a map of the lowest level, or with `flat` one vector, h = w = 1.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.networks import layers, unet
from diffusion_jax.networks.encoder import lowest_level
from diffusion_jax.networks.layers import Array


class Half(nn.Module):
    """Options of either half, as of `UNet`."""

    out_channels: int
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    heads: int = 1
    dropout: float = 0.0
    dtype: str = "float32"
    remat: bool = False
    groups: int = 0
    flat: bool = False
    data_shape: tuple[int, ...] = ()

    @property
    def lowest(self) -> tuple[int, int, int]:
        """Shape (h, w, channels) of the lowest level."""
        last = len(self.multipliers) - 1
        height, width, _ = self.data_shape
        return height >> last, width >> last, self.channels * self.multipliers[-1]


class Falling(Half):
    """Downward half: x [B,H,W,C], keys [B] or None -> [B,h,w,out_channels]."""

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        dtype = unet.check(type(self.parent).__name__.lower(), self, x, jnp.zeros(len(x)), None, keys)
        h = lowest_level(self, x, None, keys, dtype)
        h = h.reshape(len(h), 1, 1, -1) if self.flat else h
        return layers.dense(self.out_channels, layers.at_least_float32(dtype), "dense_out")(h)


class Rising(Half):
    """Upward half: z [B,h,w,c], keys [B] or None -> [B,H,W,out_channels]."""

    @nn.compact
    def __call__(self, z: Array, keys: Array | None = None) -> Array:
        dtype = jnp.dtype(self.dtype)
        accurate = layers.at_least_float32(dtype)
        height, width, channels = self.lowest
        if self.flat:
            h = layers.dense(height * width * channels, dtype, "dense_in")(z).reshape(len(z), height, width, channels)
        else:
            h = layers.conv(channels, dtype, "conv_in")(z)
        lift = nn.remat if self.remat else (lambda module: module)
        attend = partial(lift(layers.SelfAttention), heads=self.heads, dtype=dtype, groups=self.groups)
        block = partial(lift(layers.ResidualBlock), dropout=self.dropout, dtype=dtype, groups=self.groups)
        h = unet.Middle(partial(block, channels=channels), attend, name="mid")(h, None, keys)
        for i in reversed(range(len(self.multipliers))):
            for j in range(self.blocks):
                h = block(channels=self.channels * self.multipliers[i], name=f"up_{i}_block_{j}")(h, None, keys)
                if h.shape[1] in self.attention:
                    h = attend(name=f"up_{i}_attn_{j}")(h)
            if i:
                h = layers.Upsample(dtype, name=f"up_{i}_upsample")(h)
        h = nn.silu(layers.group_norm(h.shape[-1], accurate, "norm_out", self.groups)(h))
        return layers.conv(self.out_channels, accurate, "conv_out")(h)


def options_of(net: Any) -> dict[str, Any]:
    """Return the options of `Half` that a network holds, without `out_channels`."""
    return {name: getattr(net, name) for name in Half.__dataclass_fields__ if name not in HELD}


HELD = ("out_channels", "parent", "name")


@declare(autoencoder=True)
class VAE(Half):
    """Autoencoder: x [B,H,W,C] -> mean and log variance of latents z -> [B,H,W,out_channels].

    Options as of `UNet`, and `latent_channels`, c. flat: the latents are one vector [B,1,1,c], by a dense layer.
    Reference: Kingma and Welling 2014; maps of latents as in Rombach et al. 2022.
    """

    latent_channels: int = 4

    def setup(self) -> None:
        """Make the two halves."""
        self.encoder = Falling(2 * self.latent_channels, **options_of(self))
        self.decoder = Rising(self.out_channels, **options_of(self))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (h, w, c) of the latents of an example."""
        return (1, 1, self.latent_channels) if self.flat else (*self.lowest[:2], self.latent_channels)

    def encode(self, x: Array, keys: Array | None = None) -> Array:
        """Return mean and log variance of the latents, stacked: [B,h,w,2c]."""
        return self.encoder(x, keys)

    def decode(self, z: Array, keys: Array | None = None) -> Array:
        """Return the parameters [B,H,W,out_channels] of p(x | z) for latents z [B,h,w,c]."""
        return self.decoder(z, keys)

    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        """Return the parameters at the mean of the latents. time and label are not used."""
        return self.decode(jnp.split(self.encode(x, keys), 2, axis=-1)[0], keys)
