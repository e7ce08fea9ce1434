"""Residual multilayer perceptron for vectors, such as 2-D toy data."""

import flax.linen as nn

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array


class MLP(nn.Module):
    """Residual MLP: x [B,D], time [B], label [B] or None, keys [B] or None -> [B,out_channels].

    `depth` layers h + dense(dropout(silu(dense(silu(h)) + dense(silu(temb))))) of size `width`. Labels, keys, dtype
    and the near-zero output at the start are as in `UNet`. Raises ValueError when traced if something does not fit.
    """

    out_channels: int
    width: int = 128
    depth: int = 3
    dropout: float = 0.0
    num_classes: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        options = {"out_channels": self.out_channels, "depth": self.depth}
        dtype = layers.check_options("mlp", self.dtype, dropout=self.dropout, num_classes=self.num_classes, **options)
        if self.width < 4 or self.width % 2:
            raise ValueError(f"mlp: width must be even and at least 4, got {self.width}")
        layers.check_shapes("mlp", x, "BD", time, label, keys)
        accurate = layers.at_least_float32(dtype)
        temb = layers.Conditioning(self.width, self.width, self.num_classes, accurate, name="temb")(time, label)
        h = layers.dense(self.width, dtype, "dense_in")(x)
        for i in range(self.depth):
            h = ResidualLayer(self.width, self.dropout, dtype, name=f"layer_{i}")(h, temb, keys)
        return layers.dense(self.out_channels, accurate, "dense_out", layers.NEAR_ZERO)(nn.silu(h))


class ResidualLayer(nn.Module):
    """Residual layer h + dense(dropout(silu(dense(silu(h)) + dense(silu(temb)))))."""

    width: int
    dropout: float
    dtype: layers.DType

    @nn.compact
    def __call__(self, h: Array, temb: Array, keys: Array | None) -> Array:
        r = layers.dense(self.width, self.dtype, "dense1")(nn.silu(h))
        r += layers.dense(self.width, self.dtype, "temb_proj")(nn.silu(temb))
        r = layers.Dropout(self.dropout, name="dropout")(nn.silu(r), keys)
        return h + layers.dense(self.width, self.dtype, "dense2", layers.NEAR_ZERO)(r)
