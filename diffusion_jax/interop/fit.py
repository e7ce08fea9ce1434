"""Match a U-Net to the weights of other projects. Parameter shapes, and groups of norms."""

import functools

import jax
import jax.numpy as jnp

from diffusion_jax.networks.layers import usual_groups
from diffusion_jax.networks.parameters import Path, parameter_shapes
from diffusion_jax.networks.unet import UNet


@functools.cache
def shapes(unet: UNet, shape: tuple[int, ...]) -> dict[Path, tuple[int, ...]]:
    """Return the shapes of the parameters of `unet` by path, for data of `shape` (H,W,C)."""
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return parameter_shapes(unet, x, time)


def norm_groups(unet: UNet, shape: tuple[int, ...]) -> set[int]:
    """Return the numbers of groups of the group norms of `unet`."""
    channels = {s[-1] for path, s in shapes(unet, shape).items() if path[-1] == "scale"}
    return {unet.groups or usual_groups(c) for c in channels}


def with_groups(unet: UNet, shape: tuple[int, ...], groups: int) -> UNet:
    """Return `unet` with `groups` groups in every norm. The option is 0 where that gives the same number."""
    usual = unet.clone(groups=0)
    return usual if norm_groups(usual, shape) == {groups} else unet.clone(groups=groups)
