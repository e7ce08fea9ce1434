"""Multilayer perceptron for the binary sequences of Sohl-Dickstein et al. 2015."""

import flax.linen as nn
import jax

from diffusion_jax.networks import layers, temporal
from diffusion_jax.networks.layers import Array


class SequenceMLP(nn.Module):
    """MLP for sequences: x [B,D], time [B] in 0 … T - 1 -> [B,out_channels]; label and keys are ignored.

    `depth` layers of `width` sigmoid units, shared by all steps, and a `temporal.ReadOut`. Reference: Sohl-Dickstein et
    al. 2015, section 3.1.2 (3 layers of 50). Raises ValueError when traced if something does not fit.
    """

    out_channels: int
    num_steps: int
    width: int = 50
    depth: int = 3
    bumps: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        sizes = {"width": self.width, "depth": self.depth}
        dtype = layers.check_options("sequence_mlp", self.dtype, **sizes)
        layers.check_shapes("sequence_mlp", x, "BD", time, label, keys)
        temporal.check("sequence_mlp", self.num_steps)
        h = x.astype(dtype)
        for i in range(self.depth):
            h = jax.nn.sigmoid(layers.dense(self.width, dtype, f"dense_{i}", WIDE)(h))
        return temporal.ReadOut(self.out_channels, self.num_steps, self.bumps, dtype, name="read_out")(h, time)


WIDE = layers.glorot(16.0)
"""Initialiser four times as wide as `layers.GLOROT`: the slope of a sigmoid is at most 1/4."""
