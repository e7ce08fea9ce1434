"""The feature networks whose weights come from files: the one that this package ships, and Inception."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffusion_jax.metrics import feature_weights
from diffusion_jax.metrics import inception_weights as public
from diffusion_jax.metrics.digit_features import DigitFeatures
from diffusion_jax.metrics.features import FeatureNetwork
from diffusion_jax.metrics.inception import SIZE, Inception
from diffusion_jax.networks.layers import Array

IMPORTED = pathlib.Path("~/.cache/diffusion_jax/inception.npz")
"""Where imported weights of Inception are, unless another file is named."""


def inception(shape: tuple[int, ...], levels: int, weights: str = "", drawn: bool = False) -> FeatureNetwork:
    """The 2,048 features of the FID, of images of any size; grey ones are repeated as red, green and blue.

    weights: a file of `import_inception`; "" is IMPORTED. FileNotFoundError, with what to do, where there is none.
    drawn: random weights in their place, which have the same speed and nothing else.
    """
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"features=inception: wants images (H, W, 1 or 3), not {shape}; use pixels, or your own")
    network, image = Inception(), (1, 8, 8, 3)
    path = pathlib.Path(weights or IMPORTED).expanduser()
    if drawn:
        rng = np.random.default_rng(0)
        flat = {at: 0.02 * rng.standard_normal(of, np.float32) for at, of in shapes(network, image).items()}
        params, digest = traverse_util.unflatten_dict(flat), "random"
    elif path.is_file():
        params, digest = feature_weights.read(path, shapes(network, image))
    else:
        raise FileNotFoundError(f"features=inception: there is no {path}; {public.SOURCES}")

    def apply(params: Any, x: Array) -> Any:
        x = (x + 1) * 127.5
        x = jnp.round(x) if levels == 256 else x
        return network.apply({"params": params}, jnp.broadcast_to(x, (*x.shape[:3], 3)))

    rule = f"bilinear to {SIZE} x {SIZE} as in TensorFlow 1, of 0 … 255"
    return FeatureNetwork("inception", apply, params, digest, rule, tile=16)


def import_inception(path: str, out: os.PathLike | str = "") -> dict[str, Any]:
    """Turn the public weights into a file of ours; see `interop.inception.read`. Writes nothing if they do not fit."""
    params = public.read(path, shapes(Inception(), (1, 8, 8, 3)))
    out = pathlib.Path(out or IMPORTED).expanduser()
    feature_weights.write(out, params)
    flat = {"/".join(at): value for at, value in traverse_util.flatten_dict(params).items()}
    sizes = {"tensors": len(flat), "parameters": sum(value.size for value in flat.values())}
    return {"weights": str(out), "hash": feature_weights.digest(flat), **sizes}


def digits(shape: tuple[int, ...], levels: int) -> FeatureNetwork:
    """64 features of a small classifier of the embedded digits. ValueError for data of another shape."""
    if shape != (8, 8, 1):
        raise ValueError(f"features=digits: its network knows images of shape (8, 8, 1), not {shape}; use inception")
    network = DigitFeatures()
    params, weights = feature_weights.read(feature_weights.DIGITS, shapes(network, (1, *shape)))

    def apply(params: Any, x: Array) -> Any:
        return network.apply({"params": params}, x)

    return FeatureNetwork("digits", apply, params, weights, "none")


def shapes(network: Any, shape: tuple[int, ...]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shapes of the parameters of a network by path, for inputs of a shape; traced, not computed."""
    params = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))["params"]
    return {path: value.shape for path, value in traverse_util.flatten_dict(params).items()}
