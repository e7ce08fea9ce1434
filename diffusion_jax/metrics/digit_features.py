"""A small classifier of the embedded 8x8 digits, whose features replace Inception's."""

import flax.linen as nn
import jax.numpy as jnp

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array


class DigitFeatures(nn.Module):
    """Classifier: x [B,8,8,1] in [-1, 1] -> (features [B,64], logits [B,10]).

    Three 3x3 convolutions with silu, the second with stride 2; the features are the mean over the pixels, and the
    logits a linear map of the features. launch/digit_features.py trains the weights.
    """

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for i, (channels, stride) in enumerate(((32, 1), (64, 2), (64, 1))):
            x = nn.silu(layers.conv(channels, jnp.float32, f"conv{i}", stride=stride)(x))
        features = x.mean((1, 2))
        return features, layers.dense(10, jnp.float32, "logits")(features)
