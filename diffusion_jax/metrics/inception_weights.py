"""Read the public weights of the FID's Inception network.

These are PyTorch ports as safetensors, or the TensorFlow graph of 2015. Neither PyTorch nor TensorFlow is needed, and
nothing in the files is executed: of a frozen graph, a protocol buffer, only the constants are read.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from diffusion_jax import files
from diffusion_jax.metrics.inception import CLASSES, FEATURES
from diffusion_jax.networks.parameters import check_finite, check_shapes

EPSILON = 1e-3
"""The epsilon of every batch norm."""
SOURCES = (
    "the weights are not shipped: get pt_inception-2015-12-05-6726825d.pth (github.com/mseitzer/pytorch-fid, releases) "
    "and save it as safetensors, or classify_image_graph_def.pb (download.tensorflow.org, inception-2015-12-05.tgz), "
    "then run: python -m diffusion_jax.main import-inception --path=FILE; or use other features: "
    "--features=digits, grey28, pixels, or module:function of yours"
)
BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
FIRST = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
CHAINS: dict[str, dict[str, tuple[str, ...]]] = {
    "5": {
        "": ("branch1x1",),
        "tower": ("branch5x5_1", "branch5x5_2"),
        "tower_1": ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        "tower_2": ("branch_pool",),
    },
    "6a": {"": ("branch3x3",), "tower": ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")},
    "6": {
        "": ("branch1x1",),
        "tower": ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
        "tower_1": tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
        "tower_2": ("branch_pool",),
    },
    "7a": {"tower": ("branch3x3_1", "branch3x3_2"), "tower_1": tuple(f"branch7x7x3_{i}" for i in range(1, 5))},
    "7": {
        "": ("branch1x1",),
        "tower": ("branch3x3_1",),
        "tower/mixed": ("branch3x3_2a", "branch3x3_2b"),
        "tower_1": ("branch3x3dbl_1", "branch3x3dbl_2"),
        "tower_1/mixed": ("branch3x3dbl_3a", "branch3x3dbl_3b"),
        "tower_2": ("branch_pool",),
    },
}
"""Kind of block -> scope of the graph within it -> the units in it, in order."""


def read(path: os.PathLike | str, shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> dict[str, Any]:
    """Return the parameters of `Inception` from a .safetensors or .pb file.

    shapes: of the parameters, by path. Raises FileNotFoundError if there is no such file, ValueError if it holds
    something else.
    """
    path = pathlib.Path(files.expand(path))
    if not path.is_file():
        raise FileNotFoundError(f"--path={path}: no such file; {SOURCES}")
    if path.suffix == ".safetensors":
        tensors = _of_safetensors(path)
    elif path.suffix == ".pb":
        tensors = _of_graph(path)
    else:
        raise ValueError(f"--path={path}: must end in .safetensors or .pb (pickles such as .pth are not read)")
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.integer) or tensor.dtype == bool:
            raise ValueError(f"{path}: {name} has dtype {tensor.dtype}. Convert the weights to floats")
    check_finite(f"{path}: the weights", tensors, "Download the file again")
    flat = folded(path, tensors)
    check_finite(f"{path}: the folded weights", flat, "Download the file again")
    check_shapes(f"{path}: the weights", flat, {"/".join(at): shape for at, shape in shapes.items()})
    return traverse_util.unflatten_dict({tuple(name.split("/")): value for name, value in flat.items()})


def folded(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return parameters by path from PyTorch's tensors, batch norms folded into convolutions.

    gain · (conv(x) - mean) / sqrt(var + epsilon) + bias, computed in float64.
    """
    flat: dict[str, np.ndarray] = {}
    for name in [name for name in tensors if name.endswith(".conv.weight")]:
        unit = name.removesuffix(".conv.weight")
        norm = [f"{unit}.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        missing = [part for part in norm if part not in tensors]
        if missing or tensors[name].ndim != 4:
            raise ValueError(
                f"{path}: {missing[0] if missing else name} is missing or misshapen. Download the file again"
            )
        gain, bias, mean, var = (tensors[part].astype(np.float64) for part in norm)
        if gain.ndim != 1 or not gain.shape == bias.shape == mean.shape == var.shape == tensors[name].shape[:1]:
            raise ValueError(f"{path}: the batch norm of {unit} has another shape. Download the file again")
        with np.errstate(invalid="ignore"):  # a negative variance, which `check_finite` finds
            scale = gain / np.sqrt(var + EPSILON)
        kernel = tensors[name].transpose(2, 3, 1, 0) * scale
        at = f"{unit.replace('.', '/')}/conv"
        flat |= {f"{at}/kernel": kernel.astype(np.float32), f"{at}/bias": (bias - mean * scale).astype(np.float32)}
    if "fc.weight" in tensors:
        flat["fc/kernel"] = tensors["fc.weight"].T.astype(np.float32)
    return flat


def _of_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: no safetensors file, or a damaged one ({error}). Save it again") from error


# The frozen graph.


def graph_names() -> dict[str, str]:
    """Return {scope of the graph: PyTorch's name of the unit}."""
    names = dict(zip(_numbered("conv"), FIRST, strict=False))
    for scope, block in zip(_numbered("mixed"), BLOCKS, strict=False):
        for inner, units in CHAINS.get(block, CHAINS[block[0]]).items():
            whole = f"{scope}/{inner}/conv" if inner else f"{scope}/conv"
            names |= dict(zip(_numbered(whole), (f"Mixed_{block}.{unit}" for unit in units), strict=False))
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    for i in range(1, 100):
        yield f"{name}_{i}"


def _of_graph(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the constants of a frozen graph as PyTorch names and arranges them."""
    try:
        constants = dict(_constants(path.read_bytes()))
    except (LookupError, TypeError, ValueError) as error:  # bytes that are no protocol buffer, or another one
        raise ValueError(f"{path}: no frozen graph ({error}). Download it again") from error
    tensors = {}
    norm = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for scope, unit in graph_names().items():
        if f"{scope}/conv2d_params" in constants:
            tensors[f"{unit}.conv.weight"] = constants[f"{scope}/conv2d_params"].transpose(3, 2, 0, 1)
        for theirs, ours in norm.items():
            if f"{scope}/batchnorm/{theirs}" in constants:
                tensors[f"{unit}.bn.{ours}"] = constants[f"{scope}/batchnorm/{theirs}"]
    if "softmax/weights" in constants:
        tensors["fc.weight"] = constants["softmax/weights"].reshape(FEATURES, CLASSES).T
    return tensors


def _constants(graph: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and value of every float32 constant of a GraphDef.

    The fields are numbered as in TensorFlow's graph.proto.
    """
    for number, node in _fields(graph):
        if number != 1 or not isinstance(node, bytes):
            continue
        name, operation, value = "", "", None
        for field, content in _fields(node):
            if not isinstance(content, bytes):
                continue
            if field == 1:
                name = content.decode()
            elif field == 2:
                operation = content.decode()
            elif field == 5:
                attribute = dict(_fields(content))
                if attribute.get(1) == b"value":
                    value = dict(_fields(attribute[2])).get(8)
        if operation == "Const" and value is not None and (tensor := _tensor(value)) is not None:
            yield name, tensor


def _tensor(message: bytes) -> np.ndarray | None:
    """Return the value of a TensorProto; None unless it is float32.

    The values are stored as bytes or as a packed list.
    """
    fields: dict[int, Any] = dict(_fields(message))
    if fields.get(1) != 1:
        return None
    shape = [dict(_fields(size)).get(1, 0) for number, size in _fields(fields.get(2, b"")) if number == 2]
    values = np.frombuffer(fields.get(4) or fields.get(5, b""), "<f4")
    size = int(np.prod(shape))
    return np.resize(values, size).reshape(shape) if len(values) in (1, size) else None


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and content of the fields of a protocol buffer. The content is an integer or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(message):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"a field of kind {kind}")
        length = {1: 8, 5: 4}.get(kind) or varint()
        if at + length > len(message):
            raise ValueError("it ends in the middle of a field")
        yield tag >> 3, message[at : at + length]
        at += length
