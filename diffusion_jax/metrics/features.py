"""The contract of a feature network, and the simplest one: an example is its own features."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from diffusion_jax.networks.layers import Array


class FeatureNetwork(NamedTuple):
    """Turns examples into vectors, in which sets of them can be compared."""

    name: str
    apply: Callable[[Any, Any], tuple[Any, Any]]
    """`apply(params, x[B,*D]) -> (features [B,F], logits [B,K] or None)`, each row a function of its own example."""
    params: Any
    weights: str
    """A hash of the parameters; "none" where there are none."""
    rule: str
    """What is done to an image before the network sees it, in words."""
    tile: int = 256
    """Examples per device and call."""
    images: bool = True
    """Whether it takes images, hence floats in [-1, 1] only."""
    compiled: bool = True
    """Whether `apply` is a JAX function; if not, it takes and returns NumPy arrays."""


def pixels(shape: tuple[int, ...], levels: int) -> FeatureNetwork:
    """The values themselves: grey levels, or floats. x in [-1, 1], or whatever floats are where levels = 0."""

    def apply(params: Any, x: Array) -> tuple[Array, None]:
        flat = x.reshape(len(x), -1)
        return (jnp.round((flat + 1) * ((levels - 1) / 2)) if levels else flat), None

    return FeatureNetwork("pixels", apply, {}, "none", "none", images=False)


def own(name: str, function: Callable[[Any], Any]) -> FeatureNetwork:
    """The user's own `function(x[B,*D]) -> features [B,F]` of NumPy arrays, a network of any framework inside."""
    return FeatureNetwork(name, lambda params, x: (function(x), None), {}, "the user's", "the user's", 64, False, False)
