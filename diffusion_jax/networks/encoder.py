"""Classifier of noisy images, for guidance: the downward half of the U-Net."""

from functools import partial
from typing import Any

import flax.linen as nn

from diffusion_jax.declarations import declare
from diffusion_jax.networks import layers, unet
from diffusion_jax.networks.layers import Array, DType


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
        h = lowest_level(self, layers.fourier_features(x, self.fourier), temb, keys, dtype)
        return layers.dense(self.out_channels, accurate, "dense_out")(h.mean((1, 2)))


def lowest_level(net: Any, x: Array, temb: Array | None, keys: Array | None, dtype: DType) -> Array:
    """Return the normalised output [B,h,w,c] of the lowest level of a U-Net's downward half.

    net: the module with the options of `Encoder` in whose compact method this is called.
    """
    h = layers.conv(net.channels, dtype, "conv_in")(x)
    lift = nn.remat if net.remat else (lambda module: module)
    attend = partial(lift(layers.SelfAttention), heads=net.heads, dtype=dtype, groups=net.groups)
    block = partial(lift(layers.ResidualBlock), dropout=net.dropout, dtype=dtype, groups=net.groups)
    last = len(net.multipliers) - 1
    for i, multiplier in enumerate(net.multipliers):
        attends = x.shape[1] >> i in net.attention
        level = partial(block, channels=net.channels * multiplier), attend if attends else None
        halve = partial(layers.Downsample, dtype) if i < last else None
        h = unet.Down(net.blocks, *level, halve, name=f"down_{i}")(h, temb, keys)[-1]
    h = unet.Middle(level[0], attend, name="mid")(h, temb, keys)
    return nn.silu(layers.group_norm(h.shape[-1], layers.at_least_float32(dtype), "norm_out", net.groups)(h))
