"""The user's own images: a folder of files, checked when opened and decoded as they are read."""

import concurrent.futures
import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffusion_jax.data import images
from diffusion_jax.data.source import Source, check_split, from_items, load, split_rows

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def folder(
    split: str,
    path: str,
    size: int | Sequence[int] = 64,
    channels: int = 3,
    resize: str = "none",
    filter: str = "lanczos",
    labels: bool = False,
    heldout: str = "",
    heldout_fraction: float = 0.1,
    in_memory: bool = False,
) -> Source:
    """All PNG, JPEG, WebP, BMP and TIFF files under `path`, in order of name; those with a leading dot aside.

    size, channels, resize, filter: see `images.Rule`; every file must fit it. labels: the class is the sub-folder of
    `path` that a file is in, numbered in order of name. heldout: a second folder to evaluate on, with the same
    sub-folders if labels; without one, heldout_fraction of the files is held out by a fixed permutation. in_memory:
    decode all once.

    Raises FileNotFoundError, PermissionError, or ValueError naming the first file that is damaged or does not fit.
    """
    check_split(split)
    rule = images.rule("folder", size, channels, resize, filter)
    names = _names("data.folder.path", path)
    classes = _classes(path, names) if labels else []
    root = path
    if heldout:
        ours, theirs = pathlib.Path(path).resolve(), pathlib.Path(heldout).resolve()
        if theirs.is_relative_to(ours) or ours.is_relative_to(theirs):
            raise ValueError(f"folder.heldout: {heldout} and {path} share files; name two folders side by side")
        if split == "heldout":
            root, names = heldout, _names("folder.heldout", heldout)
            unknown = sorted(set(_classes(heldout, names)) - set(classes)) if labels else []
            if unknown:
                raise ValueError(f"{heldout}: sub-folder {unknown[0]!r} is not in {path}; use the same ones in both")
    else:
        names = [names[row] for row in np.sort(split_rows(path, len(names), split, heldout_fraction))]
    label = np.array([classes.index(pathlib.PurePath(name).parts[0]) if labels else -1 for name in names], np.int32)
    _check(root, names, rule)
    item = functools.partial(_item, root, names, label, rule)
    source = from_items(f"{root}/{split}", rule.shape, 256, len(classes), len(names), item)
    return load(source) if in_memory else source


def _item(root: str, names: list[str], label: np.ndarray, rule: images.Rule, place: int) -> tuple[np.ndarray, int]:
    file = pathlib.Path(root, names[place])
    return images.decode(file, str(file), rule), label[place]


def _names(option: str, path: str) -> list[str]:
    """The image files under a folder, relative to it, sorted; linked folders are followed."""
    if not path:
        raise ValueError(f"{option} is empty; set it to a folder of images")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such folder; set {option} to a folder of images")
    if not os.path.isdir(path):
        raise ValueError(f"{path}: is a file, not a folder; unpack an archive first, or use data.name=arrays for .npz")
    names, seen = [], set()
    for parent, folders, files in os.walk(path, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        inside = pathlib.Path(parent).relative_to(path)
        names += [(inside / name).as_posix() for name in files if _is_image(name)]
    if not names:
        raise ValueError(f"{path}: no images in it or below; they must end in one of {', '.join(EXTENSIONS)}")
    return sorted(names)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _raise(error: OSError) -> None:
    raise error


def _classes(path: str, names: list[str]) -> list[str]:
    """The sub-folders that hold images, sorted."""
    loose = next((name for name in names if "/" not in name), None)
    if loose:
        raise ValueError(f"{path}/{loose}: is in no sub-folder, so it has no class; move it, or set labels=False")
    return sorted({pathlib.PurePath(name).parts[0] for name in names})


def _check(root: str, names: list[str], rule: images.Rule) -> None:
    """Check the header of every file; the error is that of the first bad one in order."""
    Image.init()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda name: images.check(pathlib.Path(root, name), rule), names):
            pass
