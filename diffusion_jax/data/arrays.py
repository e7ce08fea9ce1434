"""Data source: arrays of images or vectors in .npz and .npy files. The files are checked when opened."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from diffusion_jax.data.scaling import check_levels
from diffusion_jax.data.source import Source, check_split, from_arrays, readable, split_rows
from diffusion_jax.files import expand

ZIP = b"PK"


def arrays(
    split: str,
    path: str = "",
    key: str = "",
    label_key: str = "",
    levels: int = 256,
    classes: int = 0,
    heldout: str = "",
    heldout_fraction: float = 0.1,
) -> Source:
    """Return a split of the examples in a .npz or .npy file.

    The file has images uint8 [N,H,W] or [N,H,W,C], integer vectors [N,D], or float vectors [N,D]. A .npy file is
    memory-mapped.

    key: the array of examples in a .npz; "": the only array of two or more dimensions. label_key: the array of labels
    0 … classes - 1; "": no labels. levels: number of grey levels; integers of any dtype must be 0 … levels - 1. 0:
    floats of any shape, used unchanged (float vectors [N,D] always are); [N,H,W] becomes [N,H,W,1]. classes: 0: counted
    in the training labels. heldout: a second file for the held-out split; "": a fixed permutation holds out
    heldout_fraction of the examples.

    Raises FileNotFoundError, PermissionError, or ValueError if the file does not match this description.
    """
    check_split(split)
    path, heldout = expand(path), expand(heldout)
    check_levels(levels, "data.arrays.levels")
    if heldout and pathlib.Path(heldout).resolve() == pathlib.Path(path).resolve():
        raise ValueError(f"data.arrays.heldout={heldout}: is the training file. Use another file, or none")
    stored, label = _read("data.arrays.path", path, key, label_key)
    x0, grey = _examples(path, stored, levels)
    label, classes = _labels(path, label, len(x0), classes)
    if not heldout:
        rows = split_rows(path, len(x0), split, heldout_fraction)
        return _while_whole(from_arrays(f"{path}/{split}", x0, label, grey, classes, rows), path, stored, x0)
    if split == "train":
        return _while_whole(from_arrays(path, x0, label, grey, classes), path, stored, x0)
    stored, held_label = _read("data.arrays.heldout", heldout, key, label_key)
    held, held_grey = _examples(heldout, stored, levels)
    if (held.shape[1:], held_grey) != (x0.shape[1:], grey):
        raise ValueError(
            f"{heldout}: examples of shape {held.shape[1:]} with levels={held_grey}, but {path} has "
            f"{x0.shape[1:]} with levels={grey}. Save both with the same shape and type"
        )
    held_label, _ = _labels(heldout, held_label, len(held), classes)
    return _while_whole(from_arrays(heldout, held, held_label, grey, classes), heldout, stored, held)


def _while_whole(source: Source, path: str, stored: np.ndarray, x0: np.ndarray) -> Source:
    """Check at each read that a memory-mapped file has its length.

    Beyond the end of a shortened file, the system would kill the process. A file that was replaced or deleted is still
    mapped. stored: the array of the file; x0: examples, perhaps a copy.
    """
    if not (isinstance(stored, np.memmap) and np.may_share_memory(stored, x0)):
        return source
    opened = os.stat(path)

    def read(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with contextlib.suppress(FileNotFoundError):
            now = os.stat(path)
            if os.path.samestat(now, opened) and now.st_size < opened.st_size:
                raise ValueError(
                    f"{path}: was cut from {opened.st_size:,} to {now.st_size:,} bytes while it was read. Write the "
                    "file again; the same command continues a training"
                )
        return source.read(places)

    return source._replace(read=read)


def _read(option: str, path: str, key: str, label_key: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the unchecked arrays of examples and, with a label_key, of labels."""
    if not path:
        raise ValueError(f"{option}: is empty. Set it to a .npz or .npy file")
    file = pathlib.Path(path)
    if file.is_dir():
        raise ValueError(
            f"{option}={path}: is a folder, not a .npz or .npy file. For a folder of images use data.name=folder"
        )
    if not file.exists():
        raise FileNotFoundError(f"{path}: no such file. Set {option} to a .npz or .npy file")
    suffix = file.suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise ValueError(
            f"{option}={path}: the name must end in .npz or .npy. Save it with np.savez(path, images=…, labels=…)"
        )
    with open(file, "rb") as stream:
        if (stream.read(len(ZIP)) == ZIP) != (suffix == ".npz") and file.stat().st_size:
            raise ValueError(
                f"{path}: content and extension do not match; .npy is one array, .npz a zip file of arrays"
            )
        stream.seek(0)
        if suffix == ".npy":
            if key or label_key:
                raise ValueError(
                    f"{path}: a .npy file has one array. Leave data.arrays.key and label_key empty, or use .npz"
                )
            with _readable(path):
                return np.load(file, mmap_mode="r", allow_pickle=False), None
        with _readable(path):
            members = np.load(stream, allow_pickle=False)
        key = key or _only(path, members, label_key)
        return _member(path, members, key), _member(path, members, label_key) if label_key else None


def _only(path: str, members: np.lib.npyio.NpzFile, label_key: str) -> str:
    """Return the name of the only array of two or more dimensions."""
    shapes = {name: _member(path, members, name).shape for name in members.files if name != label_key}
    found = [name for name, shape in shapes.items() if len(shape) >= 2]
    if len(found) != 1:
        raise ValueError(
            f"{path}: cannot choose the array of examples among {shapes or 'none'}. Set data.arrays.key to one of them"
        )
    return found[0]


def _member(path: str, members: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    if name not in members.files:
        raise ValueError(f"{path}: no array {name!r}. Set the key to one of: {', '.join(members.files) or 'none'}")
    with _readable(f"{path}: array {name!r}"):
        return members[name]


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Convert NumPy's errors about damaged or pickled files to a ValueError of one line."""
    try:
        with readable(what, "write the file again"):
            yield
    except ValueError as error:
        if any(word in str(error.__cause__) for word in ("Object arrays", "Python objects", "pickle")):
            raise ValueError(
                f"{what}: has pickled Python objects, which are not loaded. Save one numeric array, such as "
                "np.stack of images of one size"
            ) from error
        raise


def _examples(path: str, x0: np.ndarray, levels: int) -> tuple[np.ndarray, int]:
    """Check examples; return them as uint8 or float32 [N,*D] with their number of levels."""
    if x0.ndim < 2:
        raise ValueError(f"{path}: shape {x0.shape} is not [N,D], [N,H,W] or [N,H,W,C]. Save np.stack(examples)")
    if not x0.size:
        raise ValueError(f"{path}: is empty, shape {x0.shape}")
    if x0.ndim == 4 and x0.shape[1] in (1, 3) and x0.shape[3] > 4:
        raise ValueError(
            f"{path}: shape {x0.shape} seems to be [N,C,H,W]. Save np.moveaxis(x, 1, -1), which is [N,H,W,C]"
        )
    if x0.dtype.kind == "b":
        if levels != 2:
            raise ValueError(f"{path}: booleans have two levels, but data.arrays.levels={levels}. Use 2")
        x0 = x0.view(np.uint8)
    if x0.dtype.kind in "iu":
        x0 = _grey_levels(path, x0, levels)
    elif x0.dtype.kind == "f":
        x0, levels = _floats(path, x0, levels), 0
    else:
        raise ValueError(f"{path}: unsupported dtype {x0.dtype}. Save uint8 images or float32 vectors")
    return x0[..., None] if x0.ndim == 3 else x0, levels


def _grey_levels(path: str, x0: np.ndarray, levels: int) -> np.ndarray:
    if levels == 0:
        raise ValueError(
            f"{path}: dtype {x0.dtype}, but levels=0 is for floats. Set data.arrays.levels=256, or save float32"
        )
    if (x0.dtype, levels) != (np.uint8, 256):
        for value, place in ((x0.min(), x0.argmin()), (x0.max(), x0.argmax())):
            if not 0 <= value < levels:
                index = tuple(int(i) for i in np.unravel_index(place, x0.shape))
                raise ValueError(
                    f"{path}: {x0.dtype} values must be grey levels 0 … {levels - 1} (got {value} at index "
                    f"{index}). Rescale them, or set data.arrays.levels"
                )
    return np.ascontiguousarray(x0, np.uint8)


def _floats(path: str, x0: np.ndarray, levels: int) -> np.ndarray:
    if x0.ndim > 2 and levels != 0:
        raise ValueError(
            f"{path}: images of dtype {x0.dtype}, shape {x0.shape}. Save them as uint8, "
            "np.round(255 * x).astype(np.uint8) for x in [0, 1], or set data.arrays.levels=0 to model the floats"
        )
    with np.errstate(over="ignore"):
        x0 = np.ascontiguousarray(x0, np.float32)
    bad = ~np.isfinite(x0)
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(bad.argmax(), x0.shape))
        raise ValueError(
            f"{path}: {bad.sum()} values are not finite in float32, the first at index {index}. Remove those examples"
        )
    return x0


def _labels(path: str, label: np.ndarray | None, size: int, classes: int) -> tuple[np.ndarray | None, int]:
    """Check labels; return them with the number of classes."""
    if label is None:
        if classes:
            raise ValueError(
                f"{path}: data.arrays.classes={classes} needs labels. Set data.arrays.label_key to their array"
            )
        return None, 0
    label = label[:, 0] if label.shape == (size, 1) else label
    if label.shape != (size,) or label.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: labels must be integers of shape ({size},) (got {label.dtype} {label.shape}). "
            "For names or floats save np.unique(labels, return_inverse=True)[1], for one-hot rows np.argmax(labels, 1)"
        )
    least, most = int(label.min()), int(label.max())
    allowed = classes or most + 1
    if not classes and allowed > size:
        raise ValueError(
            f"{path}: labels reach {most}, with {size} examples. Number the classes from 0, "
            "np.unique(labels, return_inverse=True)[1]"
        )
    if least < 0 or most >= allowed:
        raise ValueError(
            f"{path}: labels must be 0 … {allowed - 1} (got {least} to {most}). Correct them, or data.arrays.classes"
        )
    return label, allowed
