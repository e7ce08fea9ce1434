"""A small classifier of MNIST and Fashion-MNIST, whose features replace Inception's."""

import flax.linen as nn
import jax.numpy as jnp

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array


class Grey28Features(nn.Module):
    """Classifier: x [B,28,28,1] in [-1, 1] -> (features [B,128], logits [B,20]).

    Four 3x3 convolutions with silu, all but the third with stride 2; the features are the mean over the pixels,
    and the logits a linear map of the features: the ten digits, then the ten classes of clothes.
    launch/grey28_features.py trains the weights.
    """

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for i, (channels, stride) in enumerate(((24, 2), (48, 2), (64, 1), (128, 2))):
            x = nn.silu(layers.conv(channels, jnp.float32, f"conv{i}", stride=stride)(x))
        features = x.mean((1, 2))
        return features, layers.dense(20, jnp.float32, "logits")(features)
