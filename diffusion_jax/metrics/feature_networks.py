"""Feature networks by name: pixels, the two classifiers that this package ships, and Inception."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffusion_jax import files
from diffusion_jax.data.scaling import to_model
from diffusion_jax.metrics import feature_weights, inception_weights
from diffusion_jax.metrics.digit_features import DigitFeatures
from diffusion_jax.metrics.features import FeatureNetwork, pixels
from diffusion_jax.metrics.grey28_features import Grey28Features
from diffusion_jax.metrics.inception import SIZE, Inception
from diffusion_jax.networks.layers import Array
from diffusion_jax.networks.parameters import parameter_shapes

IMPORTED = pathlib.Path("~/.cache/diffusion_jax/inception.npz")
"""The file of imported Inception weights, unless another one is named."""


def digits(shape: tuple[int, ...], levels: int) -> FeatureNetwork:
    """64 features of a small classifier of the embedded digits. Raises ValueError for data of another shape."""
    return _shipped("digits", DigitFeatures(), feature_weights.DIGITS, (8, 8, 1), shape)


def grey28(shape: tuple[int, ...], levels: int) -> FeatureNetwork:
    """128 features of a classifier of MNIST and Fashion-MNIST. Raises ValueError for data of another shape."""
    return _shipped("grey28", Grey28Features(), feature_weights.GREY28, (28, 28, 1), shape)


def _shipped(
    name: str, network: nn.Module, file: pathlib.Path, needed: tuple[int, ...], shape: tuple[int, ...]
) -> FeatureNetwork:
    """Return a feature network whose weights are in the package."""
    if shape != needed:
        raise ValueError(f"features={name}: needs images of shape {needed} (got {shape}). Use inception")
    params, weights = feature_weights.read(file, _shapes(network, shape))

    def apply(params: Any, x: Array) -> Any:
        return network.apply({"params": params}, x)

    return FeatureNetwork(name, apply, params, weights, "none")


def inception(shape: tuple[int, ...], levels: int, weights: str = "", drawn: bool = False) -> FeatureNetwork:
    """The 2,048 features of the FID, for images of any size.

    Grey images are repeated as red, green and blue. weights: a file of `import_inception`; "": IMPORTED. drawn: use
    random weights instead, to measure speed. Raises ValueError for data that are not images, FileNotFoundError if there
    is no such file.
    """
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(
            f"features=inception: needs images (H, W, 1 or 3) (got {shape}). Use pixels, or module:function of yours"
        )
    network = Inception()
    path = pathlib.Path(files.expand(weights or IMPORTED))
    if drawn:
        rng = np.random.default_rng(0)
        flat = {at: 0.02 * rng.standard_normal(of, np.float32) for at, of in inception_shapes().items()}
        params, digest = traverse_util.unflatten_dict(flat), "random"
    elif path.is_file():
        params, digest = feature_weights.read(path, inception_shapes())
    else:
        raise FileNotFoundError(f"features=inception: no file {path}; {inception_weights.SOURCES}")

    def apply(params: Any, x: Array) -> Any:
        x = (x + 1) * 127.5
        x = jnp.round(x) if levels == 256 else x
        return network.apply({"params": params}, jnp.broadcast_to(x, (*x.shape[:3], 3)))

    rule = f"bilinear to {SIZE} x {SIZE} as in TensorFlow 1, of 0 … 255"
    return FeatureNetwork("inception", apply, params, digest, rule, tile=16)


FEATURES: dict[str, Callable[..., FeatureNetwork]] = {
    "pixels": pixels,
    "digits": digits,
    "grey28": grey28,
    "inception": inception,
}
"""Factories by name: `factory(shape, levels, **options)` for data of a shape [*D] and a number of grey levels."""


def on_stored(network: FeatureNetwork, levels: int) -> FeatureNetwork:
    """Return the network for stored examples: grey levels 0 … levels - 1, or floats (levels 0)."""

    def apply(params: Any, x: Any) -> tuple[Any, Any]:
        with jax.default_matmul_precision("highest"):  # GPUs and TPUs would round float32 to 11 or 8 bits
            return network.apply(params, to_model(x, levels))

    return network._replace(apply=apply)


def inception_shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the shapes of the parameters of Inception by path."""
    return _shapes(Inception(), (8, 8, 3))


def _shapes(network: Any, shape: tuple[int, ...]) -> dict[tuple[str, ...], tuple[int, ...]]:
    return parameter_shapes(network, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def import_inception(path: str, out: os.PathLike | str = "") -> dict[str, Any]:
    """Convert the public weights to a .npz file, see `inception_weights.read`.

    Nothing is written if they do not fit. Returns the path of the file, the hash of the weights, and their numbers.
    """
    out = pathlib.Path(files.expand(out or IMPORTED))
    files.check_file(out, "--out=")
    params = inception_weights.read(path, inception_shapes())
    feature_weights.write(out, params)
    flat = {"/".join(at): value for at, value in traverse_util.flatten_dict(params).items()}
    sizes = {"tensors": len(flat), "parameters": sum(value.size for value in flat.values())}
    return {"weights": str(out), "hash": feature_weights.digest(flat), **sizes}
