"""Network for images of Sohl-Dickstein et al. 2015: multi-scale convolutions beside a perceptron of the whole image.

There is no down-sampling between layers: each layer convolves its input at several scales.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.networks import layers, temporal
from diffusion_jax.networks.layers import Array, DType


class MultiScale(nn.Module):
    """Multi-scale network: x [B,H,W,C], time [B] in 0 … T - 1 -> [B,H,W,out_channels], label and keys ignored.

    `conv_layers` multi-scale convolutions of `features`, and beside them `dense_layers` of `dense_width` units on the
    whole image with `dense_features` per pixel; then `upper_layers` of `upper_features` on each pixel, and a read-out
    of `bumps` in time (`temporal.ReadOut`). dense_layers = 0 leaves the perceptron out. H and W must be divisible by
    2^(scales - 1). Reference: Sohl-Dickstein et al. 2015, appendix D.2, and its public code, where scales = 1.
    """

    out_channels: int
    num_steps: int
    conv_layers: int = 6
    features: int = 100
    scales: int = 3
    dense_layers: int = 2
    dense_width: int = 1000
    dense_features: int = 5
    upper_layers: int = 4
    upper_features: int = 100
    bumps: int = 10
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        sizes = {"conv_layers": self.conv_layers, "features": self.features, "scales": self.scales, "bumps": self.bumps}
        dtype = layers.check_options("multiscale", self.dtype, **sizes)
        layers.check_shapes("multiscale", x, "BHWC", time, label, keys)
        temporal.check("multiscale", self.num_steps)
        height, width, factor = x.shape[1], x.shape[2], 2 ** (self.scales - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"multiscale: {height} x {width} pixels cannot be halved {self.scales - 1} times; use fewer scales"
            )
        x = x.astype(dtype)
        h = x
        for i in range(self.conv_layers):
            h = jax.nn.softplus(MultiScaleConv(self.features, self.scales, dtype, name=f"conv_{i}")(h))
        parts = [h / math.sqrt(self.features)]
        if self.dense_layers:
            g = x.reshape(len(x), -1)
            for i in range(self.dense_layers - 1):
                g = jnp.tanh(layers.dense(self.dense_width, dtype, f"dense_{i}")(g))
            g = jnp.tanh(layers.dense(height * width * self.dense_features, dtype, "dense_out")(g))
            parts.append(g.reshape(len(x), height, width, self.dense_features) / math.sqrt(self.dense_features))
        h = jnp.concatenate(parts, axis=-1)
        for i in range(self.upper_layers):
            h = jnp.tanh(layers.dense(self.upper_features, dtype, f"upper_{i}")(h))
        return temporal.ReadOut(self.out_channels, self.num_steps, self.bumps, dtype, name="read_out")(h, time)


class MultiScaleConv(nn.Module):
    """Mean over scales s of 3x3 convolutions of x at lower resolutions.

    x is averaged over 2^s x 2^s pixels, convolved, and enlarged to full size.
    """

    features: int
    scales: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        total: Array | float = 0.0
        for s in reversed(range(self.scales)):
            n = 2**s
            coarse = x.reshape(batch, height // n, n, width // n, n, channels).mean((2, 4))
            convolved = total + layers.conv(self.features, self.dtype, f"scale_{s}")(coarse)
            total = layers.repeat_pixels(convolved) if s else convolved
        return jnp.asarray(total) / self.scales
