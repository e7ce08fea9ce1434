"""Weights of feature networks in flat .npz files, shipped or imported; nothing is unpickled."""

import hashlib
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from diffusion_jax import files
from diffusion_jax.networks.parameters import check_finite, check_shapes

DIGITS = pathlib.Path(__file__).parent / "digit_features.npz"
"""The weights of `DigitFeatures`, trained by launch/digit_features.py."""
GREY28 = DIGITS.with_name("grey28_features.npz")
"""The weights of `Grey28Features`, trained by launch/grey28_features.py."""


def write(path: os.PathLike | str, params: Mapping[str, Any]) -> None:
    """Write a tree of parameters; the names are paths such as conv0/kernel."""
    path = pathlib.Path(files.expand(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {"/".join(at): np.asarray(value) for at, value in sorted(traverse_util.flatten_dict(params).items())}
    files.save_npz(path, flat)


def read(path: os.PathLike | str, shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> tuple[dict[str, Any], str]:
    """Return the parameters of a file and their hash. Raises ValueError unless they have exactly the `shapes`."""
    path = pathlib.Path(files.expand(path))
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            flat = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: no .npz file of weights, or a damaged one. Import or copy it again") from error
    check_shapes(f"{path}: the weights", flat, {"/".join(at): shape for at, shape in shapes.items()})
    check_finite(f"{path}: the weights", flat, "Import or copy it again")
    return traverse_util.unflatten_dict({tuple(name.split("/")): value for name, value in flat.items()}), digest(flat)


def digest(flat: Mapping[str, np.ndarray]) -> str:
    """Return the first 16 digits of the SHA-256 of names, shapes, dtypes and values."""
    sha = hashlib.sha256()
    for name in sorted(flat):
        value = np.ascontiguousarray(flat[name])
        sha.update(f"{name} {value.shape} {value.dtype.str}\n".encode() + value.tobytes())
    return sha.hexdigest()[:16]
