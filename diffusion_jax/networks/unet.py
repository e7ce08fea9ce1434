"""U-Net of Ho et al. 2020: residual blocks, self-attention at chosen heights, skip connections."""

from collections.abc import Callable
from functools import partial

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
    `keys` are typed PRNG keys for dropout, one per example; None means no dropout. Parameters are float32, the compute
    dtype is `dtype`; the conditioning and the output head stay in float32 under bfloat16, and so does the result.
    `remat` recomputes each block in the backward pass, to save memory; parameter names and results do not change.
    `fourier` lists the exponents of the Fourier features appended to the channels of x (`layers.fourier_features`).
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

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        dtype = self._check(x, time, label, keys)
        accurate = layers.at_least_float32(dtype)
        lift = nn.remat if self.remat else (lambda module: module)
        attend = partial(lift(layers.SelfAttention), heads=self.heads, dtype=dtype, groups=self.groups)
        last = len(self.multipliers) - 1

        def block(level: int) -> Make:
            channels = self.channels * self.multipliers[level]
            made = partial(lift(layers.ResidualBlock), channels=channels, dropout=self.dropout, dtype=dtype)
            return partial(made, groups=self.groups)

        def attend_at(level: int) -> Make | None:
            return attend if x.shape[1] >> level in self.attention else None

        conditioning = layers.Conditioning(self.channels, 4 * self.channels, self.num_classes, accurate, name="temb")
        temb = conditioning(time, label)
        skips = [layers.conv(self.channels, dtype, "conv_in")(layers.fourier_features(x, self.fourier))]
        for i in range(last + 1):
            skips += Down(self.blocks, block(i), attend_at(i), dtype, i < last, name=f"down_{i}")(skips[-1], temb, keys)
        h = Middle(block(last), attend, name="mid")(skips[-1], temb, keys)
        for i in reversed(range(last + 1)):
            taken = [skips.pop() for _ in range(self.blocks + 1)]
            h = Up(block(i), attend_at(i), dtype, i > 0, name=f"up_{i}")(h, taken, temb, keys)
        h = nn.silu(layers.group_norm(h.shape[-1], accurate, "norm_out", self.groups)(h))
        return layers.conv(self.out_channels, accurate, "conv_out", layers.NEAR_ZERO)(h)

    def _check(self, x: Array, time: Array, label: Array | None, keys: Array | None) -> DType:
        """Return the compute dtype. Raises ValueError if the options or the shapes do not fit."""
        options = {"out_channels": self.out_channels, "blocks": self.blocks, "heads": self.heads}
        dtype = layers.check_options("unet", self.dtype, dropout=self.dropout, num_classes=self.num_classes, **options)
        layers.check_groups("unet", self.channels, self.groups)
        layers.check_shapes("unet", x, "BHWC", time, label, keys)
        layers.check_levels("unet", x, self.channels, self.multipliers, self.attention, self.heads)
        return dtype


class Down(nn.Module):
    """Level on the way down: a list of its outputs, each of them a skip, the last one the input of the next level."""

    blocks: int
    block: Make
    attend: Make | None
    dtype: DType
    halve: bool

    @nn.compact
    def __call__(self, h: Array, temb: Array, keys: Array | None) -> list[Array]:
        outputs = []
        for j in range(self.blocks):
            h = self.block(name=f"block_{j}")(h, temb, keys)
            if self.attend:
                h = self.attend(name=f"attn_{j}")(h)
            outputs.append(h)
        if self.halve:
            outputs.append(layers.Downsample(self.dtype, name="downsample")(h))
        return outputs


class Middle(nn.Module):
    """Lowest level: a block, attention, a block."""

    block: Make
    attend: Make

    @nn.compact
    def __call__(self, h: Array, temb: Array, keys: Array | None) -> Array:
        h = self.block(name="block_1")(h, temb, keys)
        h = self.attend(name="attn_1")(h)
        return self.block(name="block_2")(h, temb, keys)


class Up(nn.Module):
    """Level on the way up: a block for each of `skips`, whose channels follow those of h."""

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
