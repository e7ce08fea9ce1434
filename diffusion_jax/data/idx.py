"""Data source: IDX files of MNIST-like sets, four in a directory, plain or gzipped."""

import gzip
import math
import pathlib

import numpy as np

from diffusion_jax.data.source import Refused, Source, check_split, from_arrays, readable
from diffusion_jax.files import expand

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
"""Directory of Debian's package dataset-fashion-mnist, in place of a missing directory of its name."""
PARTS = {"train": "train", "heldout": "t10k"}
UINT8 = 8
DTYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
"""Values by the third byte of an IDX file."""
AGAIN = "Copy the file again"


def idx(split: str, path: str = "", classes: int = 0, levels: int = 256) -> Source:
    """Return the training split (train-…) or the held-out split (t10k-…) of IDX files.

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
    or the same with .gz; without both files of labels the set is unlabelled. Images are uint8 [N,H,W], or [N,H,W,C] in
    files of idx4.

    Args:
        split: "train" or "heldout".
        path: the directory.
        classes: labels are 0 … classes - 1; 0: counted in the training labels.
        levels: fewer than 256 reduce the grey levels to so many of equal width; 2 makes binary images.

    Raises FileNotFoundError, PermissionError, or ValueError with the name of the file.
    """
    check_split(split)
    if not 2 <= levels <= 256:
        raise ValueError(f"data.idx.levels={levels}: must lie between 2 and 256")
    directory = _directory(expand(path))
    images = {part: _find(directory, part, "images") for part in PARTS.values()}
    labels = {part: _find(directory, part, "labels") for part in PARTS.values()}
    for part, kind, file in [(part, "images", file) for part, file in images.items()] + [
        (part, "labels", file) for part, file in labels.items() if any(labels.values())
    ]:
        if file is None:
            raise FileNotFoundError(
                f"{directory}/{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte[.gz]: no such file. "
                "The directory needs images of train and t10k, and labels of both or of neither"
            )
    file, label_file = images[PARTS[split]], labels[PARTS[split]]
    assert file is not None
    x0 = _images(file)
    if levels < 256:
        x0 = (x0.astype(np.uint16) * levels // 256).astype(np.uint8)
    if label_file is None:
        if classes:
            raise ValueError(f"data.idx.classes={classes}: needs labels, but {directory} has no files of labels")
        return from_arrays(str(file), x0, None, levels, 0)
    label = _read(label_file, 1)
    if len(label) != len(x0):
        raise ValueError(
            f"{label_file}: {len(label)} labels for {len(x0)} images of {file.name}. Copy both files of one set again"
        )
    if not classes:
        train = labels["train"]
        assert train is not None
        classes = int((label if split == "train" else _read(train, 1)).max(initial=0)) + 1
    if label.max() >= classes:
        raise ValueError(f"{label_file}: labels must be 0 … {classes - 1} (got {label.max()}). {AGAIN}")
    return from_arrays(str(file), x0, label, levels, classes)


def _directory(path: str) -> pathlib.Path:
    """Return the directory of the set. Raises FileNotFoundError with the ways to get it."""
    if not path:
        raise ValueError("data.idx.path: is empty. Set it to a directory of IDX files, such as data/fashion-mnist")
    directory = pathlib.Path(path)
    if directory.is_dir():
        return directory
    if directory.exists():
        raise ValueError(f"{path}: is a file. Set data.idx.path to the directory with the four IDX files")
    if directory.name == DEBIAN.name and DEBIAN.is_dir():
        return DEBIAN
    raise FileNotFoundError(
        f"data.idx.path={path}: no such directory. Put {{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte[.gz] there; "
        "or, for Fashion-MNIST, apt install dataset-fashion-mnist; or run main prepare for the set of TensorFlow "
        "Datasets, and train with data.name=tfds"
    )


def _find(directory: pathlib.Path, part: str, kind: str) -> pathlib.Path | None:
    """Return the file of a part of the set, or None. A plain file comes before a .gz file."""
    dims = (3, 4) if kind == "images" else (1,)
    names = [f"{part}-{kind}{dash}idx{dim}-ubyte{end}" for end in ("", ".gz") for dim in dims for dash in "-."]
    return next((directory / name for name in names if (directory / name).is_file()), None)


def _images(file: pathlib.Path) -> np.ndarray:
    x0 = _read(file, 3, 4)
    if not x0.size:
        raise ValueError(f"{file}: has no images, shape {x0.shape}. {AGAIN}")
    if x0.ndim == 4 and x0.shape[1] in (1, 3) and x0.shape[3] > 4:
        raise ValueError(f"{file}: shape {x0.shape} seems to be [N,C,H,W]. Write it as [N,H,W,C]")
    return x0[..., None] if x0.ndim == 3 else x0


def _read(file: pathlib.Path, *dims: int) -> np.ndarray:
    """Return the uint8 array of an IDX file. Raises ValueError for other numbers of dimensions."""
    with readable(str(file), AGAIN):
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            content = stream.read()
        if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in DTYPES:
            hint = "gunzip it, or name it .gz" if content[:2] == b"\x1f\x8b" else AGAIN
            raise Refused(f"{file}: is not an IDX file, it begins with {content[:4].hex(' ') or 'nothing'}. {hint}")
        if content[2] != UINT8:
            raise Refused(f"{file}: has values of {DTYPES[content[2]]}. Write them as uint8, or use data.name=arrays")
        if content[3] not in dims:
            raise Refused(f"{file}: has {content[3]} dimensions. It must have {' or '.join(map(str, dims))}")
        start = 4 + 4 * content[3]
        shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
        if len(content) != start + math.prod(shape):
            raise Refused(
                f"{file}: has {len(content)} bytes, but shape {shape} needs {start + math.prod(shape)}. {AGAIN}"
            )
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
