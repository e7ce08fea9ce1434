"""Feature networks, which turn examples into vectors, and the features of many examples.

network = feature_networks.digits((8, 8, 1), levels=17)
features = extract(network, 17, [x], len(x), "samples").features
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import devices, progress
from diffusion_jax.networks.layers import Array

FeatureFunction = Callable[[Any, Any], tuple[Any, Any]]
"""`apply(params, x [B,*D])` returns (features [B,F], logits [B,K] or None), row by row."""


class FeatureNetwork(NamedTuple):
    """A feature network: its function, its parameters, and what identifies them."""

    name: str
    apply: FeatureFunction
    params: Any
    weights: str
    """A hash of the parameters; "none" without parameters."""
    rule: str
    """The preprocessing of an image, in words."""
    tile: int = 256
    """Examples per device and call."""
    images: bool = True
    """True if examples are images, so that floats must lie in [-1, 1]."""
    compiled: bool = True
    """True if `apply` is a JAX function; otherwise it takes and returns NumPy arrays."""


class Features(NamedTuple):
    """Outputs of a feature network for N examples."""

    features: np.ndarray
    """[N,F] float32"""
    logits: np.ndarray | None
    """[N,K], if the network is a classifier."""


def pixels(shape: tuple[int, ...], levels: int) -> FeatureNetwork:
    """Feature network without weights: the example itself, in grey levels, or floats (levels 0)."""

    def apply(params: Any, x: Array) -> tuple[Array, None]:
        flat = x.reshape(len(x), -1)
        return (jnp.round((flat + 1) * ((levels - 1) / 2)) if levels else flat), None

    return FeatureNetwork("pixels", apply, {}, "none", "none", images=False)


def own(name: str, function: Callable[[np.ndarray], Any]) -> FeatureNetwork:
    """Feature network from a function of NumPy arrays, x [B,*D] -> features [B,F], with any framework inside."""
    return FeatureNetwork(name, lambda params, x: (function(x), None), {}, "the user's", "the user's", 64, False, False)


def in_range(network: FeatureNetwork, levels: int, samples: np.ndarray) -> np.ndarray:
    """Return samples as `extract` takes them: a model's images of floats (levels = 0) are clipped to [-1, 1]."""
    return samples.clip(-1, 1) if network.images and levels == 0 else samples


def extract(network: FeatureNetwork, levels: int, batches: Iterable[np.ndarray], total: int, what: str) -> Features:
    """Return the features of `total` stored examples, which come in batches of any size.

    Features depend neither on the size of the batches nor on the number of devices, see `devices.TiledMap`. what: what
    the examples are, for messages. Raises ValueError for images of floats outside [-1, 1], and for features that are
    not finite.
    """

    done = 0

    def finite(values: np.ndarray, name: str) -> None:
        lost = np.flatnonzero(~np.isfinite(values).all(1))
        if len(lost):
            raise ValueError(
                f"{what}: {name} of {len(lost)} of {len(values)} examples are not finite, the first of them example "
                f"{done + lost[0]}. Check the examples"
            )

    def checked() -> Iterator[np.ndarray]:
        for x in batches:
            if network.images and levels == 0:
                finite(x.reshape(len(x), -1), "values")
            if network.images and levels == 0 and not (np.abs(x) <= 1).all():
                raise ValueError(
                    f"{what}: images of floats must lie in [-1, 1] for features={network.name} (got {x.min():g} to "
                    f"{x.max():g}). Rescale them, or save uint8 images and set levels=256"
                )
            yield x

    parts: list[Features] = []
    for features, logits in _outputs(network, checked(), total, f"features of {what}"):
        finite(features, f"features={network.name}")
        if logits is not None:
            finite(logits, f"logits of features={network.name}")
        parts.append(Features(np.asarray(features, np.float32), logits))
        done += len(features)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _outputs(
    network: FeatureNetwork, batches: Iterable[np.ndarray], total: int, name: str
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield features and logits, batch by batch."""
    if network.compiled:
        tiled = devices.TiledMap(network.apply, network.tile, name=name)
        yield from tiled.stream((devices.replicate(network.params),), ((x,) for x in batches), total)
        return
    with progress.track(name, total) as report:
        done = 0
        for x in devices.rebatch(batches, network.tile):
            yield network.apply(network.params, x)
            done += len(x)
            report(done)
