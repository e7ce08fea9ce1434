"""Classifier of noisy images, for guidance: the downward half of the U-Net."""

from functools import partial

import flax.linen as nn

from diffusion_jax.declarations import declare
from diffusion_jax.networks import layers, unet
from diffusion_jax.networks.layers import Array


@declare(classifier=True)
class Encoder(nn.Module):
    """Encoder of a U-Net: x [B,H,W,C], time [B], label (ignored), keys [B] or None -> logits [B,out_channels].

    Options as of `UNet`. The output of the lowest level is normalised and averaged over the pixels.
    Reference: Dhariwal and Nichol 2021, section 4, with a mean in place of attention pooling.
    """

    out_channels: int
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    heads: int = 1
    dropout: float = 0.0
    fourier: tuple[int, ...] = ()
    dtype: str = "float32"
    remat: bool = False
    groups: int = 0

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        dtype = unet.check("encoder", self, x, time, label, keys)
        accurate = layers.at_least_float32(dtype)
        temb = layers.Conditioning(self.channels, 4 * self.channels, 0, accurate, name="temb")(time, None)
        h = layers.conv(self.channels, dtype, "conv_in")(layers.fourier_features(x, self.fourier))
        lift = nn.remat if self.remat else (lambda module: module)
        attend = partial(lift(layers.SelfAttention), heads=self.heads, dtype=dtype, groups=self.groups)
        block = partial(lift(layers.ResidualBlock), dropout=self.dropout, dtype=dtype, groups=self.groups)
        last = len(self.multipliers) - 1
        for i, multiplier in enumerate(self.multipliers):
            attends = x.shape[1] >> i in self.attention
            level = partial(block, channels=self.channels * multiplier), attend if attends else None
            halve = partial(layers.Downsample, dtype) if i < last else None
            h = unet.Down(self.blocks, *level, halve, name=f"down_{i}")(h, temb, keys)[-1]
        h = unet.Middle(level[0], attend, name="mid")(h, temb, keys)
        h = nn.silu(layers.group_norm(h.shape[-1], accurate, "norm_out", self.groups)(h))
        return layers.dense(self.out_channels, accurate, "dense_out")(h.mean((1, 2)))
