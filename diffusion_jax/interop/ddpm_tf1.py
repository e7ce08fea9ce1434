"""Import of checkpoints of the public TensorFlow 1 code of Ho et al. 2020. Reading one needs TensorFlow.

Its U-Net has the layouts of Flax; only names differ: down_0/block_1/conv1/W (or b) for a kernel (or bias), norm1/gamma
and beta for a norm, below one outer scope such as model/. Averages have the suffix /ExponentialMovingAverage; other
variables below a variable belong to the optimiser.
"""

import pathlib
from typing import Any

import numpy as np
from flax import traverse_util

from diffusion_jax.interop import fit
from diffusion_jax.networks.parameters import Path, check_shapes
from diffusion_jax.networks.unet import UNet

AVERAGE = "/ExponentialMovingAverage"
GROUPS = 32
"""Groups of every norm, the default of the public code's norm layer."""


def name_map(unet: UNet, shape: tuple[int, ...]) -> dict[str, Path]:
    """Return parameter paths by variable name, without the outer scope, for data of `shape` (H,W,C)."""
    paths = fit.shapes(unet, shape)
    norms = {path[:-1] for path in paths if path[-1] == "scale"}
    leaves = {"kernel": "W", "scale": "gamma"}
    return {"/".join([*path[:-1], leaves.get(path[-1], "beta" if path[:-1] in norms else "b")]): path for path in paths}


def read(prefix: str, unet: UNet, shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read (parameters, averages or None) from a checkpoint, such as DIR/model.ckpt-790000.

    Raises FileNotFoundError, and ValueError without TensorFlow or if the variables do not match `unet`.
    """
    if not pathlib.Path(f"{prefix}.index").is_file():
        raise FileNotFoundError(
            f"--path={prefix}: no file {prefix}.index. Use the prefix of a checkpoint, such as DIR/model.ckpt-790000"
        )
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ValueError("--from=ddpm_tf1: needs TensorFlow. Run pip install 'diffusion_jax[tf]'") from error
    try:
        reader = tf.train.load_checkpoint(prefix)
    except tf.errors.OpError as error:
        raise ValueError(f"{prefix}: cannot be read as a checkpoint: {error.message}") from error

    names = name_map(unet, shape)
    stored = set(reader.get_variable_to_shape_map())
    variables = {name for name in stored if name.rpartition("/")[0] not in stored}
    scopes = sorted({f"/{name}"[: -len("conv_in/W")] for name in variables if f"/{name}".endswith("/conv_in/W")})
    if len(scopes) != 1:
        found = f"scopes {', '.join(scopes)}" if scopes else "no conv_in/W"
        raise ValueError(f"{prefix}: expected one U-Net of Ho et al. 2020 (got {found})")
    scope = scopes[0][1:]
    inside = {name for name in variables if name.startswith(scope) and "/" in name}

    def tree(suffix: str, found: set[str]) -> dict[str, Any]:
        arrays = {name.removeprefix(scope): np.asarray(reader.get_tensor(name + suffix)) for name in found}
        expected = fit.shapes(unet, shape)
        check_shapes(f"{prefix}: the variables{suffix}", arrays, {name: expected[path] for name, path in names.items()})
        return traverse_util.unflatten_dict({path: arrays[name] for name, path in names.items()})

    averaged = {name for name in inside if name + AVERAGE in stored}
    return tree("", inside), tree(AVERAGE, averaged) if averaged else None
