"""Whether arrays from elsewhere are those of a network: the shapes it asks for, and what is said where they differ."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffusion_jax.networks.layers import usual_groups
from diffusion_jax.networks.unet import UNet

Path = tuple[str, ...]


@functools.cache
def shapes(unet: UNet, shape: tuple[int, ...]) -> dict[Path, tuple[int, ...]]:
    """The shapes of the parameters of `unet` by path, for data of `shape` (H,W,C); traced, not computed."""
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(unet.init, jax.random.key(0), x, time)["params"]
    return {path: value.shape for path, value in traverse_util.flatten_dict(params).items()}


def norm_groups(unet: UNet, shape: tuple[int, ...]) -> set[int]:
    """The numbers of groups that the norms of `unet` have."""
    channels = {s[-1] for path, s in shapes(unet, shape).items() if path[-1] == "scale"}
    return {unet.groups or usual_groups(c) for c in channels}


def with_groups(unet: UNet, shape: tuple[int, ...], groups: int) -> UNet:
    """`unet` with `groups` groups in every norm, as the option 0 where that means the same."""
    usual = unet.clone(groups=0)
    return usual if norm_groups(usual, shape) == {groups} else unet.clone(groups=groups)


def check(what: str, found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError, naming the first few of each, if the arrays found are not exactly those expected."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{name} {found[name].shape} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name]
    ]
    faults = [
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in (("missing", missing), ("unknown", extra), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ValueError(f"{what} do not fit the network: {'; '.join(faults)}; check its options")
