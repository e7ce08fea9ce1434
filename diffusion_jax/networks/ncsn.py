"""NCSN of Song and Ermon 2019 and NCSNv2 of Song and Ermon 2020: RefineNets with instance norm ++.

A stack of residual blocks halves the height once and widens its view by dilation from there on; on the way back each
stage is refined by the one below it. NCSN is conditioned on the noise level through its norms alone, NCSNv2 not at all.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Array, DType

NORM_EPSILON = 1e-5


class NCSN(nn.Module):
    """NCSN: x [B,H,W,C] and time [B] in 0 … num_steps - 1 -> [B,H,W,out_channels]; label and keys are ignored.

    The norms have parameters for each of `num_steps` noise levels and interpolate between them.

    multipliers: of the channels, one per stage. dilations: of the convolutions, one per stage; a stage after the first
    halves the height where its dilation is 1. dtype, remat: as in `UNet`.
    Raises ValueError when traced if the options or the shapes do not fit.
    Reference: Song and Ermon 2019, appendix A, and its public code.
    """

    out_channels: int
    num_steps: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        if self.num_steps < 1:
            raise ValueError(f"ncsn: num_steps must be at least 1, got {self.num_steps}; or use network.name=ncsnv2")
        dtype = check("ncsn", self, x, time, label, keys)
        return refine_net(self, x, shares(time, self.num_steps), self.num_steps, dtype)


class NCSNv2(nn.Module):
    """NCSNv2: x [B,H,W,C] -> [B,H,W,out_channels], not conditioned on time, label or keys, which are ignored.

    It differs from `NCSN` also in norms (only in the stages) and pooling (largest, not mean). The caller divides its
    output by the noise level. Options: as of `NCSN`.
    Raises ValueError when traced if the options or the shapes do not fit.
    Reference: Song and Ermon 2020, appendix B, and its public code.
    """

    out_channels: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Array:
        return refine_net(self, x, None, 0, check("ncsnv2", self, x, time, label, keys))


def refine_net(net: NCSN | NCSNv2, x: Array, level_weights: Array | None, levels: int, dtype: DType) -> Array:
    """Return the output of either network, whose submodules are made here.

    Args:
        net: the network, for its options.
        x: [B,H,W,C].
        level_weights: weights [B,levels] of the noise levels, or None.
        levels: the number of noise levels that the norms have parameters for; 0 for none.
        dtype: the compute dtype.
    """
    lift = nn.remat if net.remat else (lambda module: module)
    widths = [net.channels * multiplier for multiplier in net.multipliers]
    h = conv(widths[0], dtype, "conv_in")(x)
    stages = []
    for i, (width, dilation) in enumerate(zip(widths, net.dilations, strict=True)):
        for j in range(2):
            block = lift(Block)(width, dilation, i > 0 and j == 0, levels, dtype, name=f"stage_{i}_block_{j}")
            h = block(h, level_weights)
        stages.append(h)
    refined: list[Array] = []
    for i in reversed(range(len(widths))):
        refine = lift(Refine)(widths[max(i - 1, 0)], 3 if i == 0 else 1, levels, dtype, name=f"refine_{i}")
        refined = [refine([stages[i], *refined], level_weights)]
    h = nn.elu(InstanceNormPlus(levels, dtype, name="norm_out")(refined[0], level_weights))
    return conv(net.out_channels, layers.at_least_float32(dtype), "conv_out")(h)


def check(name: str, net: NCSN | NCSNv2, x: Array, time: Array, label: Array | None, keys: Array | None) -> DType:
    """Return the compute dtype. Raises ValueError if the options or the shapes do not fit."""
    dtype = layers.check_options(name, net.dtype, out_channels=net.out_channels)
    layers.check_shapes(name, x, "BHWC", time, label, keys)
    if len(net.dilations) != len(net.multipliers) or min((*net.multipliers, *net.dilations), default=0) < 1:
        raise ValueError(
            f"{name}: multipliers and dilations must be integers >= 1, one of each for every stage, got "
            f"{net.multipliers} and {net.dilations}"
        )
    layers.check_levels(name, x, net.channels, net.multipliers[:1], ())
    halvings = sum(dilation == 1 for dilation in net.dilations[1:])
    for axis, size in (("height", x.shape[1]), ("width", x.shape[2])):
        if size % 2**halvings:
            raise ValueError(f"{name}: {axis} {size} cannot be halved {halvings} times, as dilations of 1 ask for")
    return dtype


class InstanceNormPlus(nn.Module):
    """Instance norm ++: gamma (norm(x) + alpha norm(means of channels)) + beta.

    The first norm is over (H, W), the second over the channels of an example. With `levels`, gamma, alpha and beta are
    rows, one for each level. x [B,H,W,C], level_weights [B,levels] or None. Reference: Song and Ermon 2019,
    appendix A.1.
    """

    levels: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Array, level_weights: Array | None) -> Array:
        accurate = layers.at_least_float32(self.dtype)
        value = x.astype(accurate)
        means = value.mean((1, 2), keepdims=True)
        value = (value - means) * jax.lax.rsqrt(value.var((1, 2), keepdims=True) + NORM_EPSILON)
        spread = (means - means.mean(-1, keepdims=True)) * jax.lax.rsqrt(
            means.var(-1, ddof=1, keepdims=True) + NORM_EPSILON
        )

        def scale(name: str, init: nn.initializers.Initializer) -> Array:
            shape = ((self.levels,) if self.levels else ()) + x.shape[-1:]
            rows = self.param(name, init, shape, jnp.float32).astype(accurate)
            return (
                rows
                if level_weights is None
                else jnp.matmul(level_weights.astype(accurate), rows, precision="highest")[:, None, None]
            )

        gamma, alpha = (scale(name, near_one) for name in ("gamma", "alpha"))
        beta = scale("beta", nn.initializers.zeros)
        return (gamma * (value + alpha * spread) + beta).astype(self.dtype)


class Block(nn.Module):
    """Residual block S(x) + R(conv(elu(norm(conv(elu(norm(x))))))), with `channels` outputs.

    Where `narrower`, R is the mean of 2x2 pixels and S the same with a 1x1 convolution behind it; but with a dilation
    above 1 the height stays, and S is a convolution of that dilation. Otherwise R and S are the identity.
    """

    channels: int
    dilation: int
    narrower: bool
    levels: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Array, level_weights: Array | None) -> Array:
        h = nn.elu(InstanceNormPlus(self.levels, self.dtype, name="norm1")(x, level_weights))
        h = conv(x.shape[-1] if self.narrower else self.channels, self.dtype, "conv1", self.dilation)(h)
        h = nn.elu(InstanceNormPlus(self.levels, self.dtype, name="norm2")(h, level_weights))
        h = conv(self.channels, self.dtype, "conv2", self.dilation)(h)
        if self.narrower and self.dilation == 1:
            h, x = (nn.avg_pool(value, (2, 2), (2, 2)) for value in (h, x))
            x = layers.dense(self.channels, self.dtype, "shortcut", torch_uniform)(x)
        elif self.narrower:
            x = conv(self.channels, self.dtype, "shortcut", self.dilation)(x)
        return x + h


class Refine(nn.Module):
    """Refinement of stages [B,h,w,c], the first the highest.

    Adapt each, sum at the height of the first, pool, adapt again.

    Reference: Lin et al. 2017 (RefineNet), section 3.2.
    """

    channels: int
    blocks: int
    levels: int
    dtype: DType

    @nn.compact
    def __call__(self, stages: list[Array], level_weights: Array | None) -> Array:
        stages_in = [self.adapt(stage, level_weights, 2, f"adapt_{i}") for i, stage in enumerate(stages)]
        if len(stages_in) > 1:
            stages_in = [self.norm(stage, level_weights, f"fuse_norm_{i}") for i, stage in enumerate(stages_in)]
            stages_in = [conv(self.channels, self.dtype, f"fuse_conv_{i}")(stage) for i, stage in enumerate(stages_in)]
        h = nn.elu(sum((stretched(stage, stages_in[0].shape[1:3]) for stage in stages_in[1:]), stages_in[0]))
        pooled, pool = h, nn.avg_pool if self.levels else nn.max_pool
        for i in range(2):
            pooled = pool(self.norm(pooled, level_weights, f"pool_norm_{i}"), (5, 5), padding="SAME")
            pooled = conv(self.channels, self.dtype, f"pool_conv_{i}", bias=False)(pooled)
            h += pooled
        return self.adapt(h, level_weights, self.blocks, "output")

    def adapt(self, x: Array, level_weights: Array | None, blocks: int, name: str) -> Array:
        """Apply residual blocks of two convolutions, each after its norm and non-linearity."""
        for i in range(blocks):
            h = x
            for j in range(2):
                h = nn.elu(self.norm(h, level_weights, f"{name}_{i}_norm_{j}"))
                h = conv(x.shape[-1], self.dtype, f"{name}_{i}_conv_{j}", bias=False)(h)
            x = x + h
        return x

    def norm(self, x: Array, level_weights: Array | None, name: str) -> Array:
        """Apply the norm if the network is conditioned on the level; else return x."""
        return InstanceNormPlus(self.levels, self.dtype, name=name)(x, level_weights) if self.levels else x


def conv(features: int, dtype: DType, name: str, dilation: int = 1, bias: bool = True) -> nn.Conv:
    """3x3 convolution."""
    return TorchConv(features, (3, 3), kernel_dilation=dilation, use_bias=bias, dtype=dtype, name=name)


def shares(time: Array, levels: int) -> Array:
    """Return linear weights [B,levels] of the two levels around time [B], clipped to 0 … levels - 1."""
    return jnp.maximum(1 - jnp.abs(jnp.clip(time, 0, levels - 1)[:, None] - jnp.arange(levels)), 0)


def stretched(x: Array, size: tuple[int, ...]) -> Array:
    """Resize x [B,h,w,C] to [B,*size,C], linear between pixels, with aligned corners."""
    for axis, (old, new) in enumerate(zip(x.shape[1:3], size, strict=True), start=1):
        if old != new:
            place = np.arange(new) * ((old - 1) / max(new - 1, 1))
            weight = np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0)
            x = jnp.moveaxis(jnp.tensordot(x, jnp.asarray(weight, x.dtype), ((axis,), (1,))), -1, axis)
    return x


def near_one(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    """Initialiser N(1, 0.02²)."""
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def torch_uniform(key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    """Initialiser of PyTorch: uniform within 1/sqrt(fan_in) of 0; drawn flat, see `layers.glorot`."""
    bound = float(np.prod(shape[:-1])) ** -0.5
    return jax.random.uniform(key, (int(np.prod(shape)),), dtype, -bound, bound).reshape(shape)


class TorchConv(nn.Conv):
    """Convolution with the default initialisation of PyTorch."""

    kernel_init: nn.initializers.Initializer = torch_uniform
