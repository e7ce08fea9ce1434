"""Data source: a folder of image files, checked when opened and decoded when read."""

import collections
import concurrent.futures
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffusion_jax.data import images
from diffusion_jax.data.source import (
    NoHeldout,
    Source,
    check_fraction,
    check_split,
    count,
    empty_split,
    from_items,
    load,
)
from diffusion_jax.files import expand

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def folder(
    split: str,
    path: str = "",
    size: int | Sequence[int] = (64, 64),
    channels: int = 3,
    resize: str = "center_crop",
    filter: str = "lanczos",
    alpha: str = "white",
    white_point: int = 65535,
    max_pixels: int = 0,
    labels: bool = False,
    heldout: str = "",
    heldout_fraction: float = 0.1,
    in_memory: bool = False,
) -> Source:
    """Return a split of the image files under `path`, in order of name.

    Files: PNG, JPEG, WebP, BMP and TIFF, without a leading dot, sub-folders included.

    size, channels, resize, filter, alpha, white_point, max_pixels: see `images.Rule`. labels: the class of a file is
    its sub-folder of `path`, numbered in order of name. heldout: a second folder for the held-out split, with the same
    sub-folders if labels; "": a hash of each file's name holds out about heldout_fraction of the files, so that no file
    changes its split when others are added or deleted. in_memory: decode all files once.

    Raises FileNotFoundError, PermissionError, or ValueError naming the first file that is damaged or does not fit.
    """
    check_split(split)
    path, heldout = expand(path), expand(heldout)
    rule = images.rule("folder", size, channels, resize, filter, alpha, white_point, max_pixels)
    names, skipped = _names("data.folder.path", path)
    classes = _classes(path, names) if labels else []
    root = path
    if heldout:
        ours, theirs = pathlib.Path(path).resolve(), pathlib.Path(heldout).resolve()
        if theirs.is_relative_to(ours) or ours.is_relative_to(theirs):
            raise ValueError(f"data.folder.heldout={heldout}: shares files with {path}. Use two separate folders")
        if split == "heldout":
            root, (names, skipped) = heldout, _names("data.folder.heldout", heldout)
            unknown = sorted(set(_classes(heldout, names)) - set(classes)) if labels else []
            if unknown:
                raise ValueError(
                    f"{heldout}: sub-folder {unknown[0]!r} is not in {path}. Use the same sub-folders in both"
                )
    else:
        names = _part(path, names, split, heldout_fraction)
    number = {name: i for i, name in enumerate(classes)}
    label = np.array([number[name.split("/")[0]] if labels else -1 for name in names], np.int32)
    transparent = _check(root, names, rule)
    item = functools.partial(_item, root, names, label, rule)
    over = ""
    if transparent and channels < 4:
        over = (
            f"{transparent:,} images have an alpha channel or a transparent colour: transparent pixels, if any, are "
            f"laid over {alpha} (data.folder.alpha)"
        )
    source = from_items(f"{root}/{split}", rule.shape, 256, len(classes), len(names), item)._replace(
        class_names=tuple(classes),
        counts=count(label, len(classes)),
        note="; ".join(part for part in (skipped, over) if part),
        identity=hashlib.sha256(b"\0".join(map(os.fsencode, names))).hexdigest(),
    )
    return load(source) if in_memory else source


def _item(root: str, names: list[str], label: np.ndarray, rule: images.Rule, place: int) -> tuple[np.ndarray, int]:
    file = pathlib.Path(root, names[place])
    return images.decode(file, str(file), rule), label[place]


def place_of(name: str) -> float:
    """Return a number in [0, 1) that depends on a file's name alone.

    A file with a number below heldout_fraction is held out.
    """
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _part(path: str, names: list[str], split: str, fraction: float) -> list[str]:
    """Return the names of a split. Raises ValueError where it is empty, with a fraction that mends it."""
    check_fraction(path, fraction)
    places = np.array([place_of(name) for name in names])
    if split == "heldout" and fraction and not (places < fraction).any():
        raise NoHeldout(
            f"{path}: none of {len(names)} files is held out by heldout_fraction={fraction}",
            f"Set data.folder.heldout_fraction={np.ceil(places.min() * 1000 + 1) / 1000:.3f} or more, 0 for none, or "
            "data.folder.heldout to a path",
        )
    part = [name for name, held in zip(names, places < fraction, strict=True) if held == (split == "heldout")]
    return part or empty_split(path, split, f"{fraction:.4g} of {len(names)} files")


def _names(option: str, path: str) -> tuple[list[str], str]:
    """List the image files under a folder, sorted; describe the files of other kinds.

    Symbolic links are followed.
    """
    if not path:
        raise ValueError(f"{option}: is empty. Set it to a folder of images")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such folder. Set {option} to a folder of images")
    if not os.path.isdir(path):
        raise ValueError(f"{path}: is a file, not a folder. Unpack an archive first; for .npz use data.name=arrays")
    found, seen = [], set()
    for parent, folders, files in os.walk(path, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        inside = pathlib.Path(parent).relative_to(path)
        found += [(inside / name).as_posix() for name in files if not name.startswith(".")]
    names = sorted(name for name in found if name.lower().endswith(EXTENSIONS))
    skipped = _skipped(sorted(set(found) - set(names)))
    if not names:
        raise ValueError(
            f"{path}: no images in this folder or below. Their names must end in one of {', '.join(EXTENSIONS)}"
            + (f" ({skipped})" if skipped else "")
        )
    return names, skipped


def _skipped(others: list[str]) -> str:
    """Describe files that are not read, by number and extension: 'skipped 3 files: 2 .gif (a.gif, …), 1 .heic …'."""
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for name in others:
        kinds[pathlib.PurePath(name).suffix.lower() or "without extension"].append(name)
    each = [f"{len(of):,} {kind} ({of[0]}{', …' * (len(of) > 1)})" for kind, of in kinds.items()]
    return f"skipped {len(others):,} files of other kinds: {', '.join(each)}" if others else ""


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


def _check(root: str, names: list[str], rule: images.Rule) -> int:
    """Check the header of every file and count those with alpha. Raises the error of the first bad file."""
    Image.init()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return sum(pool.map(lambda name: images.check(pathlib.Path(root, name), rule), names))
