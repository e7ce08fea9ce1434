"""Data source: a folder of image files, checked when opened and decoded when read."""

import concurrent.futures
import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffusion_jax.data import images
from diffusion_jax.data.source import Source, check_split, from_items, load, split_rows
from diffusion_jax.files import expand

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def folder(
    split: str,
    path: str = "",
    size: int | Sequence[int] = (64, 64),
    channels: int = 3,
    resize: str = "center_crop",
    filter: str = "lanczos",
    labels: bool = False,
    heldout: str = "",
    heldout_fraction: float = 0.1,
    in_memory: bool = False,
) -> Source:
    """Return a split of the image files under `path`, in order of name.

    Files: PNG, JPEG, WebP, BMP and TIFF, without a leading dot, sub-folders included.

    size, channels, resize, filter: see `images.Rule`. labels: the class of a file is its sub-folder of `path`, numbered
    in order of name. heldout: a second folder for the held-out split, with the same sub-folders if labels; "": a fixed
    permutation holds out heldout_fraction of the files. in_memory: decode all files once.

    Raises FileNotFoundError, PermissionError, or ValueError naming the first file that is damaged or does not fit.
    """
    check_split(split)
    path, heldout = expand(path), expand(heldout)
    rule = images.rule("folder", size, channels, resize, filter)
    names = _names("data.folder.path", path)
    classes = _classes(path, names) if labels else []
    root = path
    if heldout:
        ours, theirs = pathlib.Path(path).resolve(), pathlib.Path(heldout).resolve()
        if theirs.is_relative_to(ours) or ours.is_relative_to(theirs):
            raise ValueError(f"data.folder.heldout={heldout}: shares files with {path}. Use two separate folders")
        if split == "heldout":
            root, names = heldout, _names("data.folder.heldout", heldout)
            unknown = sorted(set(_classes(heldout, names)) - set(classes)) if labels else []
            if unknown:
                raise ValueError(
                    f"{heldout}: sub-folder {unknown[0]!r} is not in {path}. Use the same sub-folders in both"
                )
    else:
        names = [names[row] for row in np.sort(split_rows(path, len(names), split, heldout_fraction))]
    label = np.array([classes.index(pathlib.PurePath(name).parts[0]) if labels else -1 for name in names], np.int32)
    _check(root, names, rule)
    item = functools.partial(_item, root, names, label, rule)
    source = from_items(f"{root}/{split}", rule.shape, 256, len(classes), len(names), item)
    source = source._replace(class_names=tuple(classes))
    return load(source) if in_memory else source


def _item(root: str, names: list[str], label: np.ndarray, rule: images.Rule, place: int) -> tuple[np.ndarray, int]:
    file = pathlib.Path(root, names[place])
    return images.decode(file, str(file), rule), label[place]


def _names(option: str, path: str) -> list[str]:
    """List the image files under a folder, relative to it and sorted; symbolic links are followed."""
    if not path:
        raise ValueError(f"{option}: is empty. Set it to a folder of images")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such folder. Set {option} to a folder of images")
    if not os.path.isdir(path):
        raise ValueError(f"{path}: is a file, not a folder. Unpack an archive first; for .npz use data.name=arrays")
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
        raise ValueError(
            f"{path}: no images in this folder or below. Their names must end in one of {', '.join(EXTENSIONS)}"
        )
    return sorted(names)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _raise(error: OSError) -> None:
    raise error


def _classes(path: str, names: list[str]) -> list[str]:
    """List the sub-folders with images, sorted."""
    loose = next((name for name in names if "/" not in name), None)
    if loose:
        raise ValueError(
            f"{path}/{loose}: is in no sub-folder, so it has no class. Move it, or set data.folder.labels=False"
        )
    return sorted({pathlib.PurePath(name).parts[0] for name in names})


def _check(root: str, names: list[str], rule: images.Rule) -> None:
    """Check the header of every file; raise the error of the first bad file in order."""
    Image.init()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda name: images.check(pathlib.Path(root, name), rule), names):
            pass
