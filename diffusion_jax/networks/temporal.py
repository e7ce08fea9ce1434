"""Time-dependent read-out of the networks of Sohl-Dickstein et al. 2015."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array, DType


def bump_weights(time: Array, num_steps: int, bumps: int) -> Array:
    """Return weights [B, bumps] of time [B] in 0 … T - 1: Gaussians around evenly spaced centres, of sum 1.

    Their standard deviation is the distance of the centres. Reference: Sohl-Dickstein et al. 2015, appendix D.2.1.
    """
    centres = jnp.linspace(0, num_steps - 1, bumps, dtype=time.dtype)
    spread = (num_steps - 1) / max(1, bumps - 1) or 1.0
    return jax.nn.softmax(-0.5 * ((time[:, None] - centres) / spread) ** 2, axis=1)


class ReadOut(nn.Module):
    """Dense layer on the last axis, with weights that depend on time.

    h [B,…,I] -> [B,…,features], time [B] in 0 … T - 1. bumps > 0: sums of `bump_weights`, a kernel for each.
    bumps = 0: every step has weights of its own; times in between have the weights of the nearest step.
    Raises ValueError for num_steps < 1 or bumps < 0.
    """

    features: int
    num_steps: int
    bumps: int
    dtype: DType

    @nn.compact
    def __call__(self, h: Array, time: Array) -> Array:
        if self.num_steps < 1 or self.bumps < 0:
            raise ValueError(
                f"network: bumps={self.bumps} must be at least 0, and num_steps={self.num_steps} at least 1"
            )
        many = self.bumps or self.num_steps
        shape = (many, h.shape[-1], self.features)
        kernel = self.param("kernel", layers.NEAR_ZERO, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (many, self.features), jnp.float32).astype(self.dtype)
        if self.bumps:
            every = jnp.einsum("b...i,jio->b...jo", h, kernel) + bias
            weights = bump_weights(time.astype(self.dtype), self.num_steps, self.bumps)
            return jnp.einsum("b...jo,bj->b...o", every, weights)
        k = jnp.clip(jnp.round(time), 0, self.num_steps - 1).astype(jnp.int32)
        extra = (1,) * (h.ndim - 2)
        return jnp.einsum("b...i,bio->b...o", h, kernel[k]) + bias[k].reshape(len(k), *extra, self.features)


def check(network: str, num_steps: int) -> None:
    """Raise ValueError unless there are steps to read out."""
    if num_steps < 1:
        raise ValueError(f"{network}: reads out step by step, so it needs a chain: set process.num_steps")
