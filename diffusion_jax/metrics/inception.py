"""InceptionV3 in the variant of the FID, the TensorFlow graph of December 2015.

It differs from the InceptionV3 of libraries in its weights, its 1,008 classes, average pools that do not count the
padding, and a maximum where the last block pools. Batch norms are folded into the convolutions. Modules have the names
of the PyTorch ports (Mixed_5b/branch1x1 …), so that their weights are found by name.
Reference: Szegedy et al. 2016; Heusel et al. 2017.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from diffusion_jax.networks.layers import Array

SIZE = 299
FEATURES = 2048
CLASSES = 1008
Window = int | tuple[int, int]


def resize(x: Array, size: int = SIZE) -> Array:
    """Resize images bilinearly by the rule of TensorFlow 1: [B,H,W,C] -> [B,size,size,C].

    Pixel i of the result lies at i · (old size / new size): corners are not aligned, no half pixel is added, and there
    is no smoothing, also for smaller sizes. Beyond the last pixel, that pixel is repeated.
    """

    def along(x: Array, axis: int) -> Array:
        old = x.shape[axis]
        place = np.arange(size, dtype=np.float32) * np.float32(old / size)
        low = place.astype(np.int64)
        share = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        before, after = (jnp.take(x, np.minimum(i, old - 1), axis) for i in (low, low + 1))
        return before + (after - before) * share

    return along(along(x, 2), 1)


class Unit(nn.Module):
    """relu(convolution), with the batch norm folded in."""

    channels: int
    window: Window
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        window = (self.window, self.window) if isinstance(self.window, int) else self.window
        return nn.relu(nn.Conv(self.channels, window, self.stride, self.padding, name="conv")(x))


def branch(x: Array, name: str, *units: tuple[int, Window] | tuple[int, Window, int, str]) -> Array:
    """Apply units in a row, named name_1, name_2, …, or `name` if there is one."""
    for i, options in enumerate(units):
        x = Unit(*options, name=name if len(units) == 1 else f"{name}_{i + 1}")(x)
    return x


def average(x: Array) -> Array:
    """Average pool over 3x3 pixels, without the padding."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def largest(x: Array, stride: int = 2, padding: str = "VALID") -> Array:
    """Maximum pool over 3x3 pixels."""
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


class BlockA(nn.Module):
    """Block of figure 5 of Szegedy et al. 2016, with one 5x5 convolution."""

    pooled: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        parts = [
            branch(x, "branch1x1", (64, 1)),
            branch(x, "branch5x5", (48, 1), (64, 5)),
            branch(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            branch(average(x), "branch_pool", (self.pooled, 1)),
        ]
        return jnp.concatenate(parts, -1)


class BlockB(nn.Module):
    """Block that halves height and width, after the blocks A."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        parts = [
            branch(x, "branch3x3", (384, 3, 2, "VALID")),
            branch(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3, 2, "VALID")),
            largest(x),
        ]
        return jnp.concatenate(parts, -1)


class BlockC(nn.Module):
    """Block of figure 6 of Szegedy et al. 2016, n = 7."""

    inner: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c, wide, high = self.inner, (1, 7), (7, 1)
        parts = [
            branch(x, "branch1x1", (192, 1)),
            branch(x, "branch7x7", (c, 1), (c, wide), (192, high)),
            branch(x, "branch7x7dbl", (c, 1), (c, high), (c, wide), (c, high), (192, wide)),
            branch(average(x), "branch_pool", (192, 1)),
        ]
        return jnp.concatenate(parts, -1)


class BlockD(nn.Module):
    """Block that halves height and width, after the blocks C."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        parts = [
            branch(x, "branch3x3", (192, 1), (320, 3, 2, "VALID")),
            branch(x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "VALID")),
            largest(x),
        ]
        return jnp.concatenate(parts, -1)


class BlockE(nn.Module):
    """Block of figure 7 of Szegedy et al. 2016; the last of the two uses a maximum pool, as the graph of 2015 does."""

    last: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def both(x: Array, name: str) -> list[Array]:
            return [branch(x, f"{name}a", (384, (1, 3))), branch(x, f"{name}b", (384, (3, 1)))]

        once = Unit(384, 1, name="branch3x3_1")(x)
        twice = branch(x, "branch3x3dbl", (448, 1), (384, 3))
        pooled = largest(x, 1, "SAME") if self.last else average(x)
        parts = [
            branch(x, "branch1x1", (320, 1)),
            *both(once, "branch3x3_2"),
            *both(twice, "branch3x3dbl_3"),
            branch(pooled, "branch_pool", (192, 1)),
        ]
        return jnp.concatenate(parts, -1)


class Inception(nn.Module):
    """Classifier: x [B,H,W,3] in 0 … 255, of any size -> (features [B,2048], logits [B,1008]).

    The features are the outputs of pool_3. The logits have no bias: the Inception score is, by tradition, computed
    without.
    """

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = (resize(x) - 128) / 128
        x = Unit(32, 3, 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Unit(32, 3, 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = largest(Unit(64, 3, name="Conv2d_2b_3x3")(x))
        x = Unit(80, 1, name="Conv2d_3b_1x1")(x)
        x = largest(Unit(192, 3, 1, "VALID", name="Conv2d_4a_3x3")(x))
        for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = BlockA(pooled, name=f"Mixed_{name}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = BlockC(inner, name=f"Mixed_{name}")(x)
        x = BlockD(name="Mixed_7a")(x)
        for name, last in (("7b", False), ("7c", True)):
            x = BlockE(last, name=f"Mixed_{name}")(x)
        features = x.mean((1, 2))
        return features, nn.Dense(CLASSES, use_bias=False, name="fc")(features)
