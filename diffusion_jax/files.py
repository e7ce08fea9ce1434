"""Files of arrays that are there whole or not at all."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath


def save_npz(path: os.PathLike | str, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name into a .npz, under another name first; what fails leaves nothing new behind."""
    place = epath.Path(path).expanduser()
    unfinished = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, **dict(arrays))
        unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)
