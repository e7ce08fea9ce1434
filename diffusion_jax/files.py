"""Atomic writes of files: a reader sees the old or the new file, whole.

A file is written under a temporary name beside its own, and renamed when it is complete. JSON has no NaN or infinity;
`json_ready` replaces them by the strings "nan", "inf" and "-inf", which `number` reads.
"""

import contextlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def expand(path: os.PathLike[str] | str) -> str:
    """Return a path as the system reads it. ~ is the home directory, file:///DIR is /DIR. Other URLs stay."""
    text = os.fspath(path)
    if text.startswith("file://"):
        return text.removeprefix("file://")
    return text if "://" in text else os.path.expanduser(text)


def place_of(path: os.PathLike[str] | str) -> epath.Path:
    """Return a path of the user, `expand`ed, as one that is read and written."""
    return epath.Path(expand(path))


def check_file(path: os.PathLike[str] | str, name: str = "", appended: bool = False) -> None:
    """Check that a file can be written at `path`.

    Its folder is there or can be made. URLs are not checked.

    name: beginning of the error, such as the flag. appended: an existing file is not replaced but continued. Raises
    ValueError for a folder in the way, PermissionError for one that is read-only.
    """
    if "://" in os.fspath(path):
        return
    place = expand(path)
    if os.path.isdir(place):
        raise ValueError(f"{name}{path}: is a folder, where a file is to be written. Move it away")
    if appended and os.path.lexists(place) and not os.access(place, os.W_OK):
        raise PermissionError(f"{name}{path}: cannot be written to. Change its permissions, or move it away")
    check_folder(os.path.dirname(place) or ".", name)


def check_folder(path: os.PathLike[str] | str, name: str = "") -> None:
    """Check that a folder can be made or written to at `path`.

    Raises as `check_file` does."""
    if "://" in os.fspath(path):
        return
    place = os.path.abspath(expand(path))
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise ValueError(f"{name}{place}: is a file, where a folder is needed. Move it away, or choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}{place}: cannot be written to. Change its permissions, or choose another place")


@contextlib.contextmanager
def replacing(path: os.PathLike | str) -> Iterator[epath.Path]:
    """Yield the temporary name of a file or folder, which replaces `path` at the end.

    After an error the temporary file is removed.
    """
    place = place_of(path)
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(place)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def save_bytes(path: os.PathLike | str, data: bytes) -> None:
    """Write bytes. Raises as `check_file` does, as the functions below do."""
    check_file(path)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def save_text(path: os.PathLike | str, text: str) -> None:
    """Write a text."""
    check_file(path)
    with replacing(path) as temporary:
        temporary.write_text(text)


def save_json(path: os.PathLike | str, value: Any) -> None:
    """Write a value as JSON, after `json_ready`. Types that JSON lacks are written as lists."""
    save_text(path, json.dumps(json_ready(value), indent=1, allow_nan=False, default=list) + "\n")


def read_json(path: os.PathLike | str) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, naming the file, if it holds none."""
    try:
        value = json.loads(place_of(path).read_text())
        if isinstance(value, dict):
            return value
        raise ValueError(f"{type(value).__name__} instead of an object")
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}). Delete it, or restore it from a copy") from error


def save_npz(path: os.PathLike | str, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name into a .npz file."""
    check_file(path)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict(arrays))


def json_ready(value: Any) -> Any:
    """Return a nested value with strings in place of floats that are not finite."""
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def number(value: Any) -> Any:
    """Return a value that `json_ready` has written as it was."""
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value
