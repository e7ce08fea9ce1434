"""Files of arrays that are there whole or not at all."""

import contextlib
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath


def save_npz(path: os.PathLike | str, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name into a .npz, under another name first; an OSError leaves nothing new behind."""
    place = epath.Path(path).expanduser()
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))
    unfinished = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(buffer.getvalue())
        unfinished.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
