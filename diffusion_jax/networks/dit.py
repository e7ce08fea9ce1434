"""Diffusion transformer of Peebles and Xie 2023. Blocks of attention on patches, conditioned by adaptive norms."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array, DType

WAVES = 256
"""Sinusoids of time."""
NORMAL = nn.initializers.normal(0.02)
"""Initialiser of the embeddings of time and label."""


class DiT(nn.Module):
    """DiT: x [B,H,W,C], time [B], label [B] or None, keys (ignored) -> [B,H,W,out_channels].

    The image is cut into patches of `patch` x `patch` pixels, each a vector of `channels` on the grid of patches, to
    which fixed sines and cosines of its row and column are added. `depth` blocks follow, with `heads` heads. H and W
    are multiples of `patch`, and need not be equal. The output is exactly zero at the start, and each block the
    identity (adaLN-Zero).

    | published as | channels | depth | heads |
    |---|--:|--:|--:|
    | DiT-S | 384 | 12 | 6 |
    | DiT-B | 768 | 12 | 12 |
    | DiT-L | 1024 | 24 | 16 |
    | DiT-XL | 1152 | 28 | 16 |

    Labels, dtype and remat are as in `UNet`. There is no dropout. Raises ValueError during tracing, before compilation,
    if the options or the shapes do not fit. Reference: Peebles and Xie 2023, section 3, and its public code.
    """

    out_channels: int
    patch: int = 2
    channels: int = 384
    depth: int = 12
    heads: int = 6
    num_classes: int = 0
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        dtype = self._check(x, time, label, keys)
        accurate = layers.at_least_float32(dtype)
        temb = layers.Conditioning(WAVES, self.channels, self.num_classes, accurate, 0, True, NORMAL, name="temb")
        condition = nn.silu(temb(time, label))
        h = layers.dense(self.channels, dtype, "patches_in")(patchify(x, self.patch))
        h += jnp.asarray(positions(*h.shape[1:]), dtype)
        block = partial(nn.remat(Block) if self.remat else Block, self.heads, dtype)
        for i in range(self.depth):
            h = block(name=f"block_{i}")(h, condition)
        shift, scale = modulation(condition, 2, accurate, "modulation", self.channels)
        h = norm(h, accurate) * (1 + scale) + shift
        h = layers.dense(self.patch**2 * self.out_channels, accurate, "patches_out", nn.initializers.zeros)(h)
        return unpatchify(h, self.patch)

    def _check(self, x: Array, time: Array, label: Array | None, keys: Array | None) -> DType:
        """Return the compute dtype. Raises ValueError if the options or the shapes do not fit."""
        least = {"out_channels": self.out_channels, "patch": self.patch, "depth": self.depth, "heads": self.heads}
        dtype = layers.check_options("dit", self.dtype, num_classes=self.num_classes, **least)
        layers.check_shapes("dit", x, "BHWC", time, label, keys)
        for name, size in (("height", x.shape[1]), ("width", x.shape[2])):
            if size % self.patch:
                raise ValueError(f"dit: patch={self.patch} does not divide the {name} {size}. Use a divisor")
        if self.channels < 4 or self.channels % 4 or self.channels % self.heads:
            raise ValueError(
                f"dit: channels={self.channels} is no multiple of 4 (sine and cosine of row and column) and of "
                f"heads={self.heads}. Use a multiple of both"
            )
        return dtype


class Block(nn.Module):
    """h + gate attention(modulated norm(h)), then h + gate perceptron(modulated norm(h)), with tanh-approximated GELU.

    Shift, scale and gate of both come from a dense layer on the condition, zero at the start: the block is then the
    identity. h [B,R,K,C] on a grid of R x K patches, condition [B,C] -> [B,R,K,C].
    """

    heads: int
    dtype: DType

    @nn.compact
    def __call__(self, h: Array, condition: Array) -> Array:
        channels = h.shape[-1]
        parts = modulation(condition, 6, self.dtype, "modulation", channels)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        inner = norm(h, self.dtype) * (1 + scale) + shift
        qkv = layers.dense(3 * channels, self.dtype, "qkv")(inner)
        h += gate * layers.dense(channels, self.dtype, "proj_out")(attention(qkv, self.heads))
        inner = norm(h, self.dtype) * (1 + scale_mlp) + shift_mlp
        inner = nn.gelu(layers.dense(4 * channels, self.dtype, "dense1")(inner), approximate=True)
        return h + gate_mlp * layers.dense(channels, self.dtype, "dense2")(inner)


def attention(qkv: Array, heads: int) -> Array:
    """Return softmax(q k^T / sqrt(C / heads)) v over all patches of an image: [B,R,K,3C] -> [B,R,K,C].

    The last axis holds q, k and v, of which a head is a slice.
    """
    batch, rows, columns, width = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, rows * columns, 3, heads, -1), 2, 0)
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=layers.at_least_float32(qkv.dtype))
    weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1).astype(qkv.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(batch, rows, columns, width // 3)


def modulation(condition: Array, parts: int, dtype: DType, name: str, channels: int) -> list[Array]:
    """Return `parts` arrays [B,1,1,channels] of a dense layer that is zero at the start."""
    found = layers.dense(parts * channels, dtype, name, nn.initializers.zeros)(condition)
    return jnp.split(found[:, None, None, :], parts, axis=-1)


def norm(h: Array, dtype: DType) -> Array:
    """Return h normalised over its channels, without gain or bias (Ba et al. 2016)."""
    h = h.astype(layers.at_least_float32(dtype))
    centred = h - h.mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + layers.NORM_EPSILON)).astype(dtype)


def positions(rows: int, columns: int, channels: int) -> np.ndarray:
    """Return the fixed position embedding, float64 [rows,columns,channels]; channels is a multiple of 4.

    In order: sines and cosines of the column, sines and cosines of the row, at frequencies 10000^(-k / (channels / 4)).
    """
    frequencies = 10000.0 ** (-np.arange(channels // 4) / (channels // 4))
    waves = []
    for place in np.broadcast_arrays(np.arange(columns), np.arange(rows)[:, None]):
        angles = place[..., None] * frequencies
        waves += [np.sin(angles), np.cos(angles)]
    return np.concatenate(waves, axis=-1)


def patchify(x: Array, patch: int) -> Array:
    """Cut images into patches: [B,H,W,C] -> [B,H/patch,W/patch,patch² C], pixels of a patch row by row."""
    batch, height, width, channels = x.shape
    parted = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return jnp.moveaxis(parted, 3, 2).reshape(batch, height // patch, width // patch, -1)


def unpatchify(h: Array, patch: int) -> Array:
    """Join patches to images, the inverse of `patchify`: [B,R,K,patch² C] -> [B,R patch,K patch,C]."""
    batch, rows, columns, _ = h.shape
    parted = jnp.moveaxis(h.reshape(batch, rows, columns, patch, patch, -1), 2, 3)
    return parted.reshape(batch, rows * patch, columns * patch, -1)
