"""Radial basis functions, the network for the swiss roll of Sohl-Dickstein et al. 2015."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.networks import layers, temporal
from diffusion_jax.networks.layers import Array


class RBF(nn.Module):
    """Radial basis functions: x [B,D], time [B] in 0 … T - 1 -> sum_j r_j(time) phi_j(x) [B,out_channels].

    label and keys are ignored.

    phi_j = exp(-|x - c_j|²/(2 w_j²)) / sum over the units, `units` of them, centres and widths shared by all steps; the
    read-out is a `temporal.ReadOut`. Reference: Sohl-Dickstein et al. 2015, section 3.1.1 (16 units). Raises ValueError
    when traced if something does not fit.
    """

    out_channels: int
    num_steps: int
    units: int = 16
    bumps: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        dtype = layers.check_options("rbf", self.dtype, units=self.units)
        layers.check_shapes("rbf", x, "BD", time, label, keys)
        temporal.check("rbf", self.num_steps)
        centres = self.param("centres", nn.initializers.normal(1.0), (self.units, x.shape[-1]), jnp.float32)
        width = self.param("log_width", nn.initializers.constant(-0.7), (self.units,), jnp.float32)
        distance = jnp.square(x[:, None].astype(dtype) - centres.astype(dtype)).sum(-1)
        phi = jax.nn.softmax(-0.5 * distance * jnp.exp(-2 * width.astype(dtype)), axis=-1)
        return temporal.ReadOut(self.out_channels, self.num_steps, self.bumps, dtype, name="read_out")(phi, time)
