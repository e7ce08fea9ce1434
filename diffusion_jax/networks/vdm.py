"""U-Net of Kingma et al. 2021, at full resolution throughout, for likelihoods."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array, DType


class VDMUNet(nn.Module):
    """VDM U-Net: x [B,H,W,C], time [B], label [B] or None, keys [B] or None -> the noise [B,H,W,C].

    `blocks` residual blocks down and blocks + 1 up, all at full size, with skip connections, and attention in the
    middle alone. `fourier`: the exponents of Fourier features that x gets; see `layers.fourier_features`. The label is
    a number beside the time: the class, or -1 for no label; 0 in a network without classes (the paper's second model
    has 1 for augmented images). For classes `UNet` is the better choice. The output is x plus the output of the layers,
    thus x at the start.
    keys, dtype and remat are as in `UNet`. Raises ValueError when traced if the options or the shapes do not fit.
    Reference: Kingma et al. 2021, appendix B, and its public code.
    """

    out_channels: int
    channels: int = 128
    blocks: int = 32
    fourier: tuple[int, ...] = (6, 7)
    dropout: float = 0.0
    num_classes: int = 0
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        options = {"out_channels": self.out_channels, "blocks": self.blocks}
        dtype = layers.check_options("vdm", self.dtype, dropout=self.dropout, num_classes=self.num_classes, **options)
        layers.check_shapes("vdm", x, "BHWC", time, label, keys)
        layers.check_levels("vdm", x, self.channels, (1,), ())
        if self.out_channels != x.shape[-1]:
            raise ValueError(
                f"vdm: the output is added to x, which has {x.shape[-1]} channels, not {self.out_channels}; use "
                "network.name=unet, or a fixed prediction.variance of Gaussian noise"
            )
        accurate = layers.at_least_float32(dtype)
        lift = nn.remat if self.remat else (lambda module: module)
        block = partial(lift(Block), self.channels, self.dropout, dtype)

        h = layers.time_embedding(time.astype(accurate), self.channels)
        number = jnp.full_like(time, -1 if self.num_classes else 0)  # -1: no label
        if label is not None and self.num_classes:
            number = label
        h = jnp.concatenate([h, number.astype(accurate)[:, None]], axis=-1)
        for name in ("dense0", "dense1"):
            h = nn.silu(layers.dense(4 * self.channels, accurate, name)(h))
        temb = h
        h = layers.conv(self.channels, dtype, "conv_in")(layers.fourier_features(x, self.fourier))
        skips = [h]
        for i in range(self.blocks):
            h = block(name=f"down_{i}")(h, temb, keys)
            skips.append(h)
        h = block(name="mid_block_1")(h, temb, keys)
        h = lift(layers.SelfAttention)(1, dtype, name="mid_attn_1")(h)
        h = block(name="mid_block_2")(h, temb, keys)
        for i in range(self.blocks + 1):
            h = block(name=f"up_{i}")(jnp.concatenate([h, skips.pop()], axis=-1), temb, keys)
        h = nn.silu(layers.group_norm(self.channels, accurate, "norm_out")(h))
        return x + layers.conv(self.out_channels, accurate, "conv_out", layers.NEAR_ZERO)(h)


class Block(nn.Module):
    """Residual block x + conv(dropout(silu(norm(conv(silu(norm(x))) + temb matrix)))); 1x1 on x if channels change."""

    channels: int
    dropout: float
    dtype: DType

    @nn.compact
    def __call__(self, x: Array, temb: Array, keys: Array | None) -> Array:
        h = nn.silu(layers.group_norm(x.shape[-1], self.dtype, "norm1")(x))
        h = layers.conv(self.channels, self.dtype, "conv1")(h)
        projection = nn.Dense(
            self.channels, use_bias=False, kernel_init=layers.NEAR_ZERO, dtype=self.dtype, name="temb_proj"
        )
        h += projection(temb)[:, None, None, :]
        h = nn.silu(layers.group_norm(self.channels, self.dtype, "norm2")(h))
        h = layers.Dropout(self.dropout, name="dropout")(h, keys)
        h = layers.conv(self.channels, self.dtype, "conv2", layers.NEAR_ZERO)(h)
        if x.shape[-1] != self.channels:
            x = layers.dense(self.channels, self.dtype, "nin_shortcut")(x)
        return x + h
