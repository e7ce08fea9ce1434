"""NCSN++ and DDPM++ of Song et al. 2021, appendix H, and the variants that Karras et al. 2022 trained.

Beside the U-Net of Ho et al. 2020: residual blocks as in BigGAN, which also halve and double, resampling by a low-pass
filter, sums divided by sqrt(2), attention on the way up once per level, and, for NCSN++, Fourier features of the noise
level and the noisy image itself shown again to every level on the way down.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array, DType

ATTENTION_INIT = layers.glorot(0.1)
EMBEDDINGS = ("positional", "fourier")


class NCSNpp(nn.Module):
    """NCSN++ and DDPM++: x [B,H,W,C], time [B], label, keys, augment [B] or None -> [B,H,W,out_channels].

    Levels, blocks, attention, dropout, labels, keys, dtype and remat are as in `UNet`, but for these differences: on
    the way up attention follows only the last block of a level, and "no label" is a vector of zeros. `embedding` of
    time is "positional" (sinusoids, DDPM++) or "fourier" (at frequencies drawn once from N(0, fourier_scale²), NCSN++).
    `taps` filter what is resampled: (1, 1) is the mean of 2x2 pixels and their repetition, (1, 3, 3, 1) is smoother.
    `progressive_input` adds x, resampled and convolved, to the input of each level. `augment_dims` = A > 0 adds a label
    [B,A] of the augmentation of the image, zeros if there is none.
    Raises ValueError when traced if the options or the shapes do not fit.
    DDPM++ is the default; NCSN++ has embedding "fourier", taps (1, 3, 3, 1) and progressive_input.
    Reference: Song et al. 2021, appendix H.1, and its public code; labels as in the public code of Karras et al. 2022.
    """

    out_channels: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.0
    num_classes: int = 0
    augment_dims: int = 0
    embedding: str = "positional"
    fourier_scale: float = 16.0
    taps: tuple[int, ...] = (1, 1)
    progressive_input: bool = False
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        time: Array,
        label: Array | None = None,
        keys: Array | None = None,
        augment: Array | None = None,
    ) -> Array:
        dtype = self._check(x, time, label, keys, augment)
        accurate = layers.at_least_float32(dtype)
        lift = nn.remat if self.remat else (lambda module: module)
        block = partial(lift(Block), dropout=self.dropout, taps=self.taps, dtype=dtype)
        rescaled = {"qkv_init": ATTENTION_INIT, "sum_scale": math.sqrt(0.5)}
        attend = partial(lift(layers.SelfAttention), heads=1, dtype=dtype, **rescaled)
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        has_attention = [x.shape[1] >> i in self.attention for i in range(len(widths))]

        scale = self.fourier_scale if self.embedding == "fourier" else 0.0
        conditioning = Conditioning(self.channels, self.num_classes, self.augment_dims, scale, accurate, name="temb")
        temb = conditioning(time, label, augment)
        shown = x
        h = layers.conv(self.channels, dtype, "conv_in")(x)
        skips = [h]
        for i, width in enumerate(widths):
            if i > 0:
                h = block(h.shape[-1], resample="down", name=f"down_{i}_resample")(h, temb, keys)
                if self.progressive_input:
                    shown = FilteredDown(h.shape[-1], self.taps, dtype, name=f"down_{i}_input")(shown)
                    shown = h = (shown + h) * math.sqrt(0.5)
                skips.append(h)
            for j in range(self.blocks):
                h = block(width, name=f"down_{i}_block_{j}")(h, temb, keys)
                if has_attention[i]:
                    h = attend(name=f"down_{i}_attn_{j}")(h)
                skips.append(h)
        h = block(widths[-1], name="mid_block_1")(h, temb, keys)
        h = attend(name="mid_attn_1")(h)
        h = block(widths[-1], name="mid_block_2")(h, temb, keys)
        for i, width in reversed(list(enumerate(widths))):
            for j in range(self.blocks + 1):
                h = block(width, name=f"up_{i}_block_{j}")(jnp.concatenate([h, skips.pop()], axis=-1), temb, keys)
            if has_attention[i]:
                h = attend(name=f"up_{i}_attn")(h)
            if i > 0:
                h = block(width, resample="up", name=f"up_{i}_resample")(h, temb, keys)
        h = nn.silu(layers.group_norm(h.shape[-1], accurate, "norm_out")(h))
        return layers.conv(self.out_channels, accurate, "conv_out", layers.NEAR_ZERO)(h)

    def _check(self, x: Array, time: Array, label: Array | None, keys: Array | None, augment: Array | None) -> DType:
        """Return the compute dtype. Raises ValueError if the options or the shapes do not fit."""
        options = {"out_channels": self.out_channels, "blocks": self.blocks}
        dtype = layers.check_options(
            "ncsnpp", self.dtype, dropout=self.dropout, num_classes=self.num_classes, **options
        )
        layers.check_shapes("ncsnpp", x, "BHWC", time, label, keys)
        layers.check_levels("ncsnpp", x, self.channels, self.multipliers, self.attention)
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"ncsnpp: embedding {self.embedding!r} is unknown; use one of {', '.join(EMBEDDINGS)}")
        if not self.taps or len(self.taps) % 2 or tuple(self.taps) != tuple(self.taps)[::-1] or sum(self.taps) <= 0:
            raise ValueError(f"ncsnpp: taps must be symmetric and even in number, as (1, 3, 3, 1), got {self.taps}")
        if self.fourier_scale <= 0:
            raise ValueError(f"ncsnpp: fourier_scale must be above 0, got {self.fourier_scale}")
        if self.augment_dims < 0:
            raise ValueError(f"ncsnpp: augment_dims must be 0 (no such labels) or more, got {self.augment_dims}")
        if augment is not None and augment.shape != (len(x), self.augment_dims):
            raise ValueError(f"ncsnpp: augment must have shape {(len(x), self.augment_dims)}, got {augment.shape}")
        return dtype


class Conditioning(nn.Module):
    """Embedding of time, label and augmentation: dense(silu(dense(sum of the three))), [B, 4 channels].

    A label is a one-hot vector times sqrt(num_classes); a negative one, or None, is zeros. A label >= num_classes gives
    NaN. The non-linearity that follows stands in each block. Reference: the public code of Karras et al. 2022.
    """

    channels: int
    num_classes: int
    augment_dims: int
    fourier_scale: float
    """0 for sinusoids of time."""
    dtype: DType

    @nn.compact
    def __call__(self, time: Array, label: Array | None, augment: Array | None) -> Array:
        time = time.astype(self.dtype)
        if self.fourier_scale:
            h = fourier_embedding(time, 2 * self.channels, self.fourier_scale)
        else:
            h = layers.time_embedding(time, self.channels)
        if self.num_classes:
            label = jnp.full(time.shape, -1) if label is None else label
            hot = jax.nn.one_hot(label, self.num_classes, dtype=self.dtype) * math.sqrt(self.num_classes)
            hot = jnp.where(label[:, None] < self.num_classes, hot, jnp.nan)
            h += layers.dense(h.shape[-1], self.dtype, "label")(hot)
        if self.augment_dims:
            augment = jnp.zeros((len(time), self.augment_dims)) if augment is None else augment
            added = nn.Dense(h.shape[-1], False, self.dtype, kernel_init=layers.GLOROT, name="augment")
            h += added(augment.astype(self.dtype))
        h = layers.dense(4 * self.channels, self.dtype, "dense0")(h)
        return layers.dense(4 * self.channels, self.dtype, "dense1")(nn.silu(h))


class Block(nn.Module):
    """Residual block of BigGAN, rescaled.

    (S(x) + conv(dropout(silu(norm(conv(R(silu(norm(x)))) + dense(silu(temb))))))) / sqrt(2) with `channels` outputs.

    R resamples ("down" halves, "up" doubles, "" leaves as it is); S resamples too, with a 1x1 convolution behind it
    wherever R does anything or the channels change. Reference: Brock et al. 2019 (BigGAN), as in Song et al. 2021.
    """

    channels: int
    dropout: float
    taps: tuple[int, ...]
    dtype: DType
    resample: str = ""

    @nn.compact
    def __call__(self, x: Array, temb: Array, keys: Array | None) -> Array:
        h = nn.silu(layers.group_norm(x.shape[-1], self.dtype, "norm1")(x))
        if self.resample:
            resample = halve if self.resample == "down" else double
            h, x = resample(h, self.taps), resample(x, self.taps)
        h = layers.conv(self.channels, self.dtype, "conv1")(h)
        h += layers.dense(self.channels, self.dtype, "temb_proj")(nn.silu(temb))[:, None, None, :]
        h = nn.silu(layers.group_norm(self.channels, self.dtype, "norm2")(h))
        h = layers.Dropout(self.dropout, name="dropout")(h, keys)
        h = layers.conv(self.channels, self.dtype, "conv2", layers.NEAR_ZERO)(h)
        if self.resample or x.shape[-1] != self.channels:
            x = layers.dense(self.channels, self.dtype, "shortcut")(x)
        return (x + h) * math.sqrt(0.5)


class FilteredDown(nn.Module):
    """Convolution, low-pass filter and halving: [B,H,W,C] -> [B,H/2,W/2,channels].

    The filter comes first, on one more row and column each side, then a convolution of stride 2, which is equal.
    """

    channels: int
    taps: tuple[int, ...]
    dtype: DType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        pad = len(self.taps) // 2
        for axis in (1, 2):
            x = _filtered(x, axis, pad, 1, self.taps, 1 / sum(self.taps))
        return layers.conv(self.channels, self.dtype, "conv", stride=2, padding="VALID")(x)


def fourier_embedding(value: Array, dim: int, scale: float) -> Array:
    """Fourier features of value [B] -> [B, dim]: sin(2 pi f_k value), then cos, f_k drawn once from N(0, scale²).

    The draw is part of the definition, the same in every network.
    Reference: Tancik et al. 2020, as in Song et al. 2021.
    """
    angles = value[:, None] * jnp.asarray(2 * np.pi * frequencies(dim // 2, scale), value.dtype)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def frequencies(number: int, scale: float) -> np.ndarray:
    """Return the frequencies [number] of `fourier_embedding`."""
    return scale * np.random.RandomState(0).normal(size=number)


def halve(x: Array, taps: tuple[int, ...]) -> Array:
    """Halve [B,H,W,C] -> [B,H/2,W/2,C]: filter by `taps`, scaled to sum to 1, zeros around; keep every other pixel."""
    for axis in (1, 2):
        x = _filtered(x, axis, len(taps) // 2 - 1, 2, taps, 1 / sum(taps))
    return x


def double(x: Array, taps: tuple[int, ...]) -> Array:
    """Double [B,H,W,C] -> [B,2H,2W,C]: zeros between pixels, then the filter, of sum 2; `halve` transposed."""
    for axis in (1, 2):
        pad = (len(taps) + 2) // 4
        shift = len(taps) // 2 - 1
        phases = []
        for phase in (0, 1):  # out[2m + phase] = sum over d of x[m - d] taps[phase + shift + 2d]
            mine = {d: phase + shift + 2 * d for d in range(-pad, pad + 1) if 0 <= phase + shift + 2 * d < len(taps)}
            padded = _pad(x, axis, pad)
            size = x.shape[axis]
            parts = [
                jax.lax.slice_in_dim(padded, pad - d, pad - d + size, axis=axis) * (2 * taps[k] / sum(taps))
                for d, k in mine.items()
            ]
            phases.append(sum(parts[1:], parts[0]))
        shape = list(x.shape)
        shape[axis] *= 2
        x = jnp.stack(phases, axis=axis + 1).reshape(shape)
    return x


def _filtered(x: Array, axis: int, pad: int, stride: int, taps: tuple[int, ...], scale: float) -> Array:
    """Return the sum over k of taps[k] scale x[stride i + k - pad], with zeros beyond the ends."""
    padded = _pad(x, axis, pad)
    size = (padded.shape[axis] - len(taps)) // stride + 1
    stop = stride * (size - 1) + 1
    parts = [jax.lax.slice_in_dim(padded, k, k + stop, stride, axis) * (tap * scale) for k, tap in enumerate(taps)]
    return sum(parts[1:], parts[0])


def _pad(x: Array, axis: int, width: int) -> Array:
    return jnp.pad(x, [(width, width) if i == axis else (0, 0) for i in range(x.ndim)])
