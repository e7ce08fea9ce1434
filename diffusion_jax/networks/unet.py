"""U-Net of Ho et al. 2020: residual blocks, self-attention at chosen heights, skip connections."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array, DType

Make = Callable[..., nn.Module]


class UNet(nn.Module):
    """U-Net: x [B,H,W,C], time [B], label [B] or None, keys [B] or None -> [B,H,W,out_channels].

    Level i has channels * multipliers[i] channels at size (H, W) / 2^i: `blocks` residual blocks on the way down and
    blocks + 1 on the way up, each of which concatenates one skip connection. H and W are multiples of 2^(levels - 1).
    `attention` lists the heights, such as 16, at which self-attention follows every residual block; the middle block
    always has it. Group norms have `groups` groups, a divisor of `channels`; 0: the number from `layers.usual_groups`.
    Attention has `heads` heads, or heads of `head_channels` channels where that is not 0.
    `keys` are typed PRNG keys for dropout, one per example; None means no dropout. Parameters are float32, the compute
    dtype is `dtype`; the conditioning and the output head stay in float32 under bfloat16, and so does the result.
    `remat` recomputes each block in the backward pass, to save memory; parameter names and results do not change.
    `fourier` lists the exponents of the Fourier features appended to the channels of x (`layers.fourier_features`).
    `norm_eps`, `downsample_padding` (0 or 1), `freq_shift` (0 or 1) and `cos_first` are options of the layers;
    diffusers' own models have 1e-5, 1, 0 and True.
    Raises ValueError during tracing, before compilation, if the options or the shapes do not fit.
    Reference: Ho et al. 2020, appendix B, and its public code.
    """

    out_channels: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    dropout: float = 0.0
    num_classes: int = 0
    fourier: tuple[int, ...] = ()
    dtype: str = "float32"
    remat: bool = False
    groups: int = 0
    head_channels: int = 0
    norm_eps: float = layers.NORM_EPSILON
    downsample_padding: int = 0
    freq_shift: int = 1
    cos_first: bool = False

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        dtype = check("unet", self, x, time, label, keys)
        for name in ("downsample_padding", "freq_shift"):
            if getattr(self, name) not in (0, 1):
                raise ValueError(f"unet: {name} must be 0 or 1, got {getattr(self, name)}")
        if not self.norm_eps > 0:
            raise ValueError(f"unet: norm_eps must be above 0, got {self.norm_eps}")
        accurate = layers.at_least_float32(dtype)
        lift = nn.remat if self.remat else (lambda module: module)
        norms = {"dtype": dtype, "groups": self.groups, "epsilon": self.norm_eps}
        attend = partial(lift(layers.SelfAttention), heads=self.heads, head_channels=self.head_channels, **norms)
        last = len(self.multipliers) - 1

        def block(level: int) -> Make:
            channels = self.channels * self.multipliers[level]
            return partial(lift(layers.ResidualBlock), channels=channels, dropout=self.dropout, **norms)

        def attend_at(level: int) -> Make | None:
            return attend if x.shape[1] >> level in self.attention else None

        waves = self.freq_shift, self.cos_first
        temb = layers.Conditioning(self.channels, 4 * self.channels, self.num_classes, accurate, *waves, name="temb")(
            time, label
        )
        halve = partial(layers.Downsample, dtype, self.downsample_padding)
        skips = [layers.conv(self.channels, dtype, "conv_in")(layers.fourier_features(x, self.fourier))]
        for i in range(last + 1):
            down = Down(self.blocks, block(i), attend_at(i), halve if i < last else None, name=f"down_{i}")
            skips += down(skips[-1], temb, keys)
        h = Middle(block(last), attend, name="mid")(skips[-1], temb, keys)
        for i in reversed(range(last + 1)):
            taken = [skips.pop() for _ in range(self.blocks + 1)]
            h = Up(block(i), attend_at(i), dtype, i > 0, name=f"up_{i}")(h, taken, temb, keys)
        h = nn.silu(layers.group_norm(h.shape[-1], accurate, "norm_out", self.groups, self.norm_eps)(h))
        return layers.conv(self.out_channels, accurate, "conv_out", layers.NEAR_ZERO)(h)


def check(name: str, net: Any, x: Array, time: Array, label: Array | None, keys: Array | None) -> DType:
    """Return the compute dtype of a U-Net or encoder. Raises ValueError if its options or the shapes do not fit."""
    options = {"out_channels": net.out_channels, "blocks": net.blocks, "heads": net.heads}
    classes, head_channels = getattr(net, "num_classes", 0), getattr(net, "head_channels", 0)
    dtype = layers.check_options(name, net.dtype, dropout=net.dropout, num_classes=classes, **options)
    layers.check_groups(name, net.channels, net.groups)
    layers.check_shapes(name, x, "BHWC", time, label, keys)
    layers.check_levels(name, x, net.channels, net.multipliers, net.attention, net.heads, head_channels)
    return dtype


class Down(nn.Module):
    """Level on the way down: a list of its outputs.

    Each output is a skip, and the last is the input of the next level.
    """

    blocks: int
    block: Make
    attend: Make | None
    halve: Make | None

    @nn.compact
    def __call__(self, h: Array, temb: Array | None, keys: Array | None) -> list[Array]:
        outputs = []
        for j in range(self.blocks):
            h = self.block(name=f"block_{j}")(h, temb, keys)
            if self.attend:
                h = self.attend(name=f"attn_{j}")(h)
            outputs.append(h)
        if self.halve:
            outputs.append(self.halve(name="downsample")(h))
        return outputs


class Middle(nn.Module):
    """Lowest level: a block, attention, a block."""

    block: Make
    attend: Make

    @nn.compact
    def __call__(self, h: Array, temb: Array | None, keys: Array | None) -> Array:
        h = self.block(name="block_1")(h, temb, keys)
        h = self.attend(name="attn_1")(h)
        return self.block(name="block_2")(h, temb, keys)


class Up(nn.Module):
    """Level on the way up: a block for each of `skips`. The channels of a skip follow the channels of h."""

    block: Make
    attend: Make | None
    dtype: DType
    double: bool

    @nn.compact
    def __call__(self, h: Array, skips: list[Array], temb: Array, keys: Array | None) -> Array:
        for j, skip in enumerate(skips):
            h = self.block(name=f"block_{j}")(jnp.concatenate([h, skip], axis=-1), temb, keys)
            if self.attend:
                h = self.attend(name=f"attn_{j}")(h)
        return layers.Upsample(self.dtype, name="upsample")(h) if self.double else h
