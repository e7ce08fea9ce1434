"""Layers of the networks, as in the U-Net of Ho et al. 2020, section 4 and appendix B, and its public code.

Arrays are [B, H, W, C]. Convolutions are 3x3 with a bias, kernels HWIO; dense kernels are (in, out), and a 1x1
convolution is a dense layer on the channels. Parameters are float32; `dtype` is the compute dtype, while
the statistics of norms and the logits of attention are at least float32.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
DType = Any

NORM_EPSILON = 1e-6

Initializer = Callable[..., Array]


def glorot(scale: float) -> Initializer:
    """Glorot-uniform initialiser: uniform within sqrt(6 scale / (fan_in + fan_out)) of 0.

    The fans of a convolution count its whole window.
    Reference: Glorot and Bengio 2010, eq. 16. Drawn flat: the same numbers as in the shape of the kernel, and XLA
    compiles the initialisation of a U-Net in half the time.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
        bound = math.sqrt(6 * scale / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init


GLOROT = glorot(1.0)
NEAR_ZERO = glorot(1e-10)
"""Initialiser of the last layer of each residual branch and of the network, which then starts near zero."""


def conv(
    features: int,
    dtype: DType,
    name: str,
    init: Initializer = GLOROT,
    stride: int = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> nn.Conv:
    """3x3 convolution with a bias."""
    return nn.Conv(features, (3, 3), stride, padding, kernel_init=init, dtype=dtype, name=name)


def dense(features: int, dtype: DType, name: str, init: Initializer = GLOROT) -> nn.Dense:
    """Dense layer on the last axis, with a bias."""
    return nn.Dense(features, kernel_init=init, dtype=dtype, name=name)


def group_norm(channels: int, dtype: DType, name: str, groups: int = 0, epsilon: float = NORM_EPSILON) -> nn.Module:
    """Return a `GroupNorm` with `groups` groups, or with `usual_groups` for 0."""
    return GroupNorm(groups or usual_groups(channels), dtype, epsilon, name=name)


class GroupNorm(nn.Module):
    """Group norm: (x - mean) / deviation, times scale, plus bias.

    Mean and deviation are over (H, W, channels of a group) of each example. The variance is the mean squared deviation,
    since E[x²] - E[x]² cancels in float32. x [B,H,W,C] -> [B,H,W,C].
    Raises ValueError when traced if `groups` does not divide the channels. Reference: Wu and He 2018.
    """

    groups: int
    dtype: DType
    epsilon: float = NORM_EPSILON

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.shape[-1] % self.groups:
            raise ValueError(f"a norm of {self.groups} groups cannot divide {x.shape[-1]} channels; use a divisor")
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        accurate = at_least_float32(self.dtype)
        x, scale, bias = (value.astype(accurate) for value in (x, scale, bias))
        return normalise(x, scale, bias, self.groups, self.epsilon).astype(self.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalise(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    """Return the output of `GroupNorm`, with a derivative whose transpose reads x only twice.

    Differentiated automatically, each of the five gradients that meet here would be a pass over x.
    """
    centred, inverse = _standardise(x, groups, epsilon)
    return centred * (inverse * scale) + bias


@normalise.defjvp
def _normalise_jvp(
    groups: int, epsilon: float, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    centred, inverse = _standardise(x, groups, epsilon)
    gain = inverse * scale
    dmean = _group_means(dx, groups)
    dinverse = -(inverse**3) * _group_means(centred * dx, groups)
    in_shift, in_gain = dbias - gain * dmean, dscale * inverse + scale * dinverse
    return centred * gain + bias, gain * dx + centred * in_gain + in_shift


def _standardise(x: Array, groups: int, epsilon: float) -> tuple[Array, Array]:
    """Return (x - mean of its group [B,H,W,C], 1 / deviation of the group [B,1,1,C])."""
    centred = x - _group_means(x, groups)
    return centred, jax.lax.rsqrt(_group_means(jnp.square(centred), groups) + epsilon)


def _group_means(x: Array, groups: int) -> Array:
    """Return the mean [B,1,1,C] of each channel's group.

    The mean over pixels is taken first, to keep the channels contiguous.
    """
    of_channel = jnp.mean(x, axis=(1, 2), keepdims=True)
    parted = of_channel.reshape(*of_channel.shape[:-1], groups, -1)
    return jnp.broadcast_to(parted.mean(-1, keepdims=True), parted.shape).reshape(of_channel.shape)


def usual_groups(channels: int) -> int:
    """Return the usual number of groups for a number of channels.

    32 from 128 channels on, else the largest number that leaves at least 4 channels in each group. A group of one
    channel would subtract what the time embedding adds to it, and the output would not depend on time.
    Reference: at least 4 as in the public code of Song et al. 2021.
    """
    return max((n for n in range(1, 33) if channels % n == 0 and channels >= 4 * n), default=1)


def time_embedding(time: Array, dim: int, freq_shift: int = 1, cos_first: bool = False) -> Array:
    """Sinusoidal embedding of time [B] -> [B, dim]: sin(time f_k), then cos, or with `cos_first` the other way round.

    f_k = 10000^(-k/(half - freq_shift)), k < half = dim / 2; `dim` is even and at least 4. Computed in float32, or
    float64 if `time` is; time is any real number, and frequencies from 1 down to 1e-4 suit a range of hundreds to
    thousands.
    Reference: Vaswani et al. 2017, section 3.5, laid out as in the public code of Ho et al. 2020.
    """
    time = time.astype(at_least_float32(time.dtype))
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000) / (half - freq_shift) * jnp.arange(half, dtype=time.dtype))
    angles = time[:, None] * frequencies
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if cos_first else waves, axis=-1)


def fourier_features(x: Array, exponents: Sequence[int]) -> Array:
    """Append the channels sin(2^n 2pi x) and cos(2^n 2pi x) to x [B,H,W,C] for each exponent n.

    Grey levels 2^-n apart differ most in the features of n - 1. Reference: Kingma et al. 2021, appendix C.
    """
    angles = [2 * math.pi * 2.0**n * x.astype(at_least_float32(x.dtype)) for n in exponents]
    features = [wave(angle).astype(x.dtype) for angle in angles for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([x, *features], axis=-1)


def at_least_float32(dtype: DType) -> DType:
    """Return float64 for float64, else float32: the dtype of values that must not be rounded to bfloat16."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


class Dropout(nn.Module):
    """Dropout: zero each element with probability `rate`, with one mask per example.

    The remaining elements are divided by 1 - rate. The mask of example i follows from keys[i] and the path of this
    layer alone, so that it does not depend on the batch or on the devices. keys None: the identity.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        if keys is None or self.rate == 0:
            return x
        layer = zlib.crc32("/".join(self.path).encode())
        keep = jnp.float32(1 - self.rate)

        def mask(key: Array) -> Array:  # drawn flat: the same bits as in the shape of x, and quicker to compile
            return jax.random.bernoulli(jax.random.fold_in(key, layer), keep, (math.prod(x.shape[1:]),))

        return jnp.where(jax.vmap(mask)(keys).reshape(x.shape), x / keep.astype(x.dtype), 0)


class Conditioning(nn.Module):
    """Conditioning on time and label: dense(silu(dense(sinusoids(time)))) + label row, [B, features].

    With num_classes > 0 there are num_classes + 1 rows, the last meaning "no label": it serves a label of None and
    negative labels. A label >= num_classes gives NaN. With num_classes = 0 the label is ignored. The non-linearity
    that follows is applied in each block. `initializer` applies to kernels and rows, None for Glorot-uniform
    kernels and standard normal rows. Reference: Ho et al. 2020, appendix B; labels as in Nichol and Dhariwal 2021.
    """

    dim: int
    features: int
    num_classes: int
    dtype: DType
    freq_shift: int = 1
    cos_first: bool = False
    initializer: Initializer | None = None

    @nn.compact
    def __call__(self, time: Array, label: Array | None) -> Array:
        h = time_embedding(time.astype(self.dtype), self.dim, self.freq_shift, self.cos_first)
        h = dense(self.features, self.dtype, "dense0", self.initializer or GLOROT)(h)
        h = dense(self.features, self.dtype, "dense1", self.initializer or GLOROT)(nn.silu(h))
        if self.num_classes:
            label = jnp.full(time.shape, -1) if label is None else label
            row = jnp.where(label < 0, self.num_classes, label + (label >= self.num_classes))
            init = self.initializer or nn.initializers.normal(1.0)
            h += nn.Embed(self.num_classes + 1, self.features, embedding_init=init, dtype=self.dtype, name="label")(row)
        return h


class ResidualBlock(nn.Module):
    """x + conv(dropout(silu(norm(conv(silu(norm(x))) + dense(silu(temb)))))), with `channels` outputs.

    Where the channels change, x passes a 1x1 convolution. x [B,H,W,C], temb [B,E] or None -> [B,H,W,channels].
    """

    channels: int
    dropout: float
    dtype: DType
    groups: int = 0
    epsilon: float = NORM_EPSILON

    @nn.compact
    def __call__(self, x: Array, temb: Array | None, keys: Array | None) -> Array:
        h = nn.silu(group_norm(x.shape[-1], self.dtype, "norm1", self.groups, self.epsilon)(x))
        h = conv(self.channels, self.dtype, "conv1")(h)
        if temb is not None:
            h += dense(self.channels, self.dtype, "temb_proj")(nn.silu(temb))[:, None, None, :]
        h = nn.silu(group_norm(self.channels, self.dtype, "norm2", self.groups, self.epsilon)(h))
        h = Dropout(self.dropout, name="dropout")(h, keys)
        h = conv(self.channels, self.dtype, "conv2", NEAR_ZERO)(h)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, self.dtype, "nin_shortcut")(x)
        return x + h


class SelfAttention(nn.Module):
    """x + dense(softmax(q k^T / sqrt(C / heads)) v), each pixel attending to all of its own image, times sum_scale.

    Heads are consecutive slices of the channels, `heads` of them, or of `head_channels` each where that is not 0.
    `qkv_init` initialises q, k and v. x [B,H,W,C] -> [B,H,W,C].
    """

    heads: int
    dtype: DType
    groups: int = 0
    head_channels: int = 0
    epsilon: float = NORM_EPSILON
    qkv_init: Initializer = GLOROT
    sum_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, rows, columns, channels = x.shape
        width = self.head_channels or channels // self.heads
        h = group_norm(channels, self.dtype, "norm", self.groups, self.epsilon)(x)
        q, k, v = (
            dense(channels, self.dtype, name, self.qkv_init)(h).reshape(batch, rows * columns, -1, width)
            for name in ("q", "k", "v")
        )
        accurate = at_least_float32(self.dtype)
        logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=accurate)
        weights = jax.nn.softmax(logits / math.sqrt(width), axis=-1)
        h = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(self.dtype), v).reshape(x.shape)
        return (x + dense(channels, self.dtype, "proj_out", NEAR_ZERO)(h)) * self.sum_scale


class Downsample(nn.Module):
    """Convolution of stride 2: [B,H,W,C] -> [B,H/2,W/2,C], H and W even.

    `padding` rows and columns of zeros stand before x, and one behind. With 0 this is SAME of TensorFlow.
    """

    dtype: DType
    padding: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return conv(x.shape[-1], self.dtype, "conv", stride=2, padding=((self.padding, 1),) * 2)(x)


def repeat_pixels(x: Array) -> Array:
    """Repeat each pixel 2x2: [B,H,W,C] -> [B,2H,2W,C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class Upsample(nn.Module):
    """Repetition of each pixel 2x2, then a convolution: [B,H,W,C] -> [B,2H,2W,C]."""

    dtype: DType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return conv(x.shape[-1], self.dtype, "conv")(repeat_pixels(x))


def check_options(
    network: str, dtype: str, *, dropout: float = 0.0, num_classes: int = 0, **at_least_one: int
) -> DType:
    """Return the compute dtype named `dtype`, after checking the options that networks share.

    Raises ValueError for an unknown dtype, float64 without jax.enable_x64, dropout outside [0, 1), a negative
    num_classes, or any of `at_least_one` below 1.
    """
    if dtype not in ("float32", "bfloat16", "float64"):
        raise ValueError(f"{network}: dtype {dtype!r} is unknown; use 'float32', 'bfloat16' or 'float64'")
    if dtype == "float64" and jnp.result_type(float) != jnp.float64:
        raise ValueError(f"{network}: dtype 'float64' needs jax.enable_x64; enable it, or use 'float32'")
    if not 0 <= dropout < 1:
        raise ValueError(f"{network}: dropout must lie in [0, 1), got {dropout}")
    if num_classes < 0:
        raise ValueError(f"{network}: num_classes must be 0 (no labels) or more, got {num_classes}")
    for name, value in at_least_one.items():
        if value < 1:
            raise ValueError(f"{network}: {name} must be at least 1, got {value}")
    return jnp.dtype(dtype)


def check_groups(network: str, channels: int, groups: int) -> None:
    """Raise ValueError unless `groups` is 0 or divides the channels."""
    if groups < 0 or (groups and channels % groups):
        raise ValueError(f"{network}: groups must be 0 or divide channels={channels}, got {groups}")


def check_shapes(network: str, x: Array, axes: str, time: Array, label: Array | None, keys: Array | None) -> None:
    """Check that x has the `axes`, and time, label and keys the shape [B].

    axes: such as "BHWC". label and keys may be None. Raises ValueError, naming the argument that does not fit.
    """
    if x.ndim != len(axes):
        hint = "; for vectors there is network.name='mlp'" if x.ndim == 2 else ""
        raise ValueError(f"{network}: x must have axes [{','.join(axes)}], got shape {x.shape}{hint}")
    for name, value in (("time", time), ("label", label), ("keys", keys)):
        if value is not None and value.shape != x.shape[:1]:
            hint = "; keys are typed, as jax.random.split makes them" if name == "keys" else ""
            raise ValueError(f"{network}: {name} must have shape {x.shape[:1]}, got {value.shape}{hint}")


def check_levels(
    network: str,
    x: Array,
    channels: int,
    multipliers: Sequence[int],
    attention: Sequence[int],
    heads: int = 1,
    head_channels: int = 0,
) -> None:
    """Raise ValueError unless x [B,H,W,C] can be halved between levels.

    The levels must have the heights of `attention`.
    """
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"{network}: multipliers must be one or more integers >= 1, got {multipliers}")
    if channels < 4 or channels % 2:
        raise ValueError(f"{network}: channels must be even and at least 4, got {channels}")
    halvings = len(multipliers) - 1
    for name, size in (("height", x.shape[1]), ("width", x.shape[2])):
        if size % 2**halvings:
            raise ValueError(
                f"{network}: {name} {size} cannot be halved {halvings} times; use a size divisible by {2**halvings} "
                "or fewer multipliers"
            )
    if head_channels < 0:
        raise ValueError(f"{network}: head_channels must be 0 or more, got {head_channels}")
    heights = [x.shape[1] >> i for i in range(halvings + 1)]
    for height in attention:
        if height not in heights:
            raise ValueError(f"{network}: attention at height {height} never occurs; the heights are {heights}")
    for i, height in enumerate(heights):
        width = channels * multipliers[i]
        if (height in attention or i == halvings) and width % (head_channels or heads):
            given = f"head_channels={head_channels}" if head_channels else f"heads={heads}"
            raise ValueError(
                f"{network}: {given} does not divide the {width} channels at height {height}; use a divisor"
            )
