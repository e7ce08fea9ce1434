"""Data set splits with random access: `Source`."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import numpy as np

SPLITS = ("train", "heldout")
HELDOUT_SEED = 0
SUBSET_SEED = 1

Item = Callable[[int], tuple[np.ndarray, int]]


class Source(NamedTuple):
    """One split of a data set: grey levels as uint8, or float32 vectors."""

    name: str
    shape: tuple[int, ...]
    """D, the shape of one example: (H, W, C) for images."""
    levels: int
    """Grey levels 0 … levels - 1 (256 for photographs); 0 for float32 values."""
    classes: int
    """Labels are 0 … classes - 1; 0: no labels."""
    size: int
    """Number of examples."""
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    """`read(places int[B]) -> (x0 uint8|float32[B,*D], label int32[B])`; label -1: unlabelled."""
    on_disk: bool
    """True if `read` decodes files, so that worker processes help."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in order; (): the classes have numbers only."""
    counts: tuple[int, ...] = ()
    """Examples of each class; (): unlabelled, or not counted."""
    note: str = ""
    """Warnings for users: files that are not read, transparency."""
    identity: str = ""
    """Hash of the names of the files; "": the examples alone identify the data."""


def from_arrays(
    name: str, x0: np.ndarray, label: np.ndarray | None, levels: int, classes: int, rows: np.ndarray | None = None
) -> Source:
    """Make a Source of arrays x0 [N,*D] and label [N] (None: unlabelled), without a copy.

    rows: the rows of the arrays that belong to the split; None: all.
    """
    x0 = np.asarray(x0)
    label = np.full(len(x0), -1, np.int32) if label is None else label.astype(np.int32)
    size = len(x0) if rows is None else len(rows)

    def read(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = places if rows is None else rows[places]
        return np.take(x0, wanted, axis=0), label[wanted]

    counts = count(label if rows is None else label[rows], classes)
    return Source(name, x0.shape[1:], levels, classes, size, read, on_disk=False, counts=counts)


def count(label: np.ndarray, classes: int) -> tuple[int, ...]:
    """Count the examples of each class, without the unlabelled ones (-1)."""
    return tuple(np.bincount(label[label >= 0], minlength=classes).tolist()) if classes else ()


def from_items(name: str, shape: tuple[int, ...], levels: int, classes: int, size: int, item: Item) -> Source:
    """Make a Source from a picklable function `item(place) -> (x0[*D], label)`."""
    return Source(name, shape, levels, classes, size, functools.partial(_stack, item, shape), on_disk=True)


def _stack(item: Item, shape: tuple[int, ...], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x0, label = np.empty((len(places), *shape), np.uint8), np.empty(len(places), np.int32)
    for row, place in enumerate(places):
        x0[row], label[row] = item(int(place))
    return x0, label


def subset(source: Source, most: int) -> Source:
    """Return the source cut to at most `most` examples.

    They are of all classes even where the examples are sorted by class: the first ones of a fixed permutation, so that
    fewer are the first of more.
    """
    if source.size <= most:
        return source
    places = np.random.default_rng(SUBSET_SEED).permutation(source.size)[:most]
    read = functools.partial(_read_some, source.read, places)
    return source._replace(size=most, read=read, counts=())


def _read_some(
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], some: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return read(some[places])


def load(source: Source) -> Source:
    """Decode a Source once into memory."""
    x0, label = source.read(np.arange(source.size))
    loaded = from_arrays(source.name, x0, label, source.levels, source.classes)
    return source._replace(read=loaded.read, on_disk=False, counts=loaded.counts)


def check_split(split: str) -> None:
    """Raise ValueError unless `split` is one of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: unknown. Use one of {', '.join(SPLITS)}")


def split_rows(name: str, size: int, split: str, fraction: float) -> np.ndarray:
    """Return the places of a split, with a fraction of the examples held out.

    A fixed permutation holds out `fraction` of `size` examples, at least one; with fraction 0 there is no held-out
    split. name: the data set in errors. Raises ValueError for an empty split.
    """
    check_fraction(name, fraction)
    held = max(1, round(size * fraction)) if fraction else 0
    if held >= size or (split == "heldout" and not held):
        empty_split(name, "train" if held >= size else split, f"{held} of {size} examples")
    order = np.random.default_rng(HELDOUT_SEED).permutation(size)
    return order[: size - held] if split == "train" else order[size - held :]


def check_fraction(name: str, fraction: float) -> None:
    """Raise ValueError unless `fraction` is a share of the examples."""
    if not 0 <= fraction < 1:
        raise ValueError(f"{name}: heldout_fraction={fraction} must be in [0, 1)")


class NoHeldout(ValueError):
    """A data set without held-out examples.

    The error holds the reason, and advice for a run that is not trained yet.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}. {advice}" if advice else reason)
        self.reason = reason


def empty_split(name: str, split: str, held: str) -> NoReturn:
    """Raise ValueError, or NoHeldout, for a split without examples. held: what is held out."""
    if split == "heldout":
        raise NoHeldout(
            f"{name}: the held-out split is empty",
            "Set heldout_fraction above 0, or heldout to a path; training alone needs none with eval.every=0 and "
            "eval.quality_every=0",
        )
    raise ValueError(
        f"{name}: holding out {held} leaves none for training. Set heldout_fraction=0, or heldout to a path"
    )


def reason(error: Exception) -> str:
    """Return the message of an exception on one line."""
    return " ".join(str(error).split()) or type(error).__name__


class Refused(ValueError):
    """ValueError of this package, as opposed to errors of libraries about damaged files."""


@contextlib.contextmanager
def readable(what: str, advice: str, kind: str = "") -> Iterator[None]:
    """Convert exceptions of libraries to a ValueError of one line.

    The line is: `what` cannot be read, the reason, and the advice.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, Refused):
        raise
    except Exception as error:
        raise ValueError(f"{what}: cannot be read{kind} ({reason(error)}). {advice[0].upper() + advice[1:]}") from error
