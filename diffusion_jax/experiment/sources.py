"""Data of a config: sources, checks, and conversion to the model's range."""

import concurrent.futures
import hashlib
import logging
import math
import pathlib
from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from diffusion_jax import files, progress
from diffusion_jax.data import arrays, dead_leaves, embedded, folder, heartbeat, idx, tfds
from diffusion_jax.data.coupling import COUPLINGS, Coupling
from diffusion_jax.data.scaling import dequantised, from_model, to_model
from diffusion_jax.data.source import SPLITS, NoHeldout, Source
from diffusion_jax.declarations import Facts, facts_of
from diffusion_jax.experiment.choices import choose, make, options
from diffusion_jax.experiment.samplers import clips_x0
from diffusion_jax.process.base import Array, Process, Schedule, fold_all, in_float64

CLIP_SLACK = 1e-3
"""Overshoot of [-1, 1] that float data may have where predictions are clipped."""
log = logging.getLogger(__name__)

HELDOUT_KEYS = ("data.arrays.heldout", "data.folder.heldout")
"""Keys of held-out data apart from the training data, which may change after training."""
_COMPARED: set[str] = set()
"""Data of stored configs that were compared with those on disk."""
IN_MEMORY = "in_memory"
"""Name, in a stored config, of data that were handed over from Python."""
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": embedded.digits,
    "toy2d": embedded.toy2d,
    "heartbeat": heartbeat.heartbeat,
    "dead_leaves": dead_leaves.dead_leaves,
    "arrays": arrays.arrays,
    "folder": folder.folder,
    "idx": idx.idx,
    "tfds": tfds.tfds,
}


def facts(config: ConfigDict) -> Facts:
    """Return the facts that the data set of a config declares."""
    name = config.data.name
    return Facts() if name == IN_MEMORY else facts_of(choose("data.name", name, SOURCES))


def source(config: ConfigDict, split: str) -> Source:
    """Open a split, "train" or "heldout", of the data.

    Warns where the training data are not those that a stored config was trained on. Raises ValueError if the data are
    not what config.data says.
    """
    data = config.data
    if data.name == IN_MEMORY:
        raise NoHeldout(
            f"data.name={IN_MEMORY!r}: the data of this run were handed over from Python",
            "Hand them over again, dj.load(workdir, data=…)",
        )
    opened: Source = make("data.name", data.name, SOURCES, options(data), split=split)
    if data.shape:
        for field in ("shape", "levels", "classes"):
            expected, found = data[field], getattr(opened, field)
            if expected != found:
                raise ValueError(f"data.{field}: {data.name} has {found}, not {expected} as in the config. Correct it")
    if data.size and (split == "train" or str(data.name) != IN_MEMORY):
        _warn_if_changed(data, opened if split == "train" else None)
    if split == "heldout" and str(data.name) != IN_MEMORY:
        _warn_if_heldout_changed(data, opened)
    return opened


def _warn_if_changed(data: ConfigDict, train: Source | None) -> None:
    """Warn, once, if a run's training data have changed."""
    key = _key(data)
    if key in _COMPARED:
        return
    _COMPARED.add(key)
    try:
        train = train or make("data.name", data.name, SOURCES, options(data), split="train")
    except (OSError, ValueError) as error:
        log.warning("the training data cannot be compared with those of the run: %s", error)
        return
    given = options(data)
    if not _is_of_run(data, train) and given.get("heldout"):  # a file for held-out data that the run did not have
        train = make("data.name", data.name, SOURCES, {**given, "heldout": ""}, split="train")
    if not _is_of_run(data, train):
        log.warning(
            "%s: the training data have changed since the run was trained (%s examples now, %s then%s). Figures are of "
            "other data, and held-out examples may be among those trained on",
            *(train.name, f"{train.size:,}", f"{data.size:,}", "" if train.size != data.size else ", other content"),
        )


def _warn_if_heldout_changed(data: ConfigDict, opened: Source) -> None:
    key = f"heldout {_key(data)} {data.heldout_fingerprint}"
    if data.heldout_fingerprint and key not in _COMPARED:
        _COMPARED.add(key)
        if fingerprint(opened) != data.heldout_fingerprint:
            log.warning(
                "%s: the held-out data are not those of the training (%s examples now). Figures of them cannot be "
                "compared with those of the training",
                *(opened.name, f"{opened.size:,}"),
            )


def _key(data: ConfigDict) -> str:
    return f"{data.name} {options(data)} {data.size} {data.fingerprint}"


def exact_entropies(config: ConfigDict, process: Process, path: Schedule) -> dict[str, float]:
    """Return -H(x_0) and -H(x_1) in bits.

    x_1 is at the first level of the chain. {} for data without known entropies.
    """
    entropies = facts(config).entropies
    if entropies is None:
        return {}
    alpha, sigma = np.exp(in_float64(path, np.array(1 / config.process.num_steps)))
    return entropies(options(config.data), process, float(alpha), float(sigma))


def heldout(config: ConfigDict) -> Source:
    """Open the held-out split of a trained run. Raises NoHeldout, with the flag that names another set, if empty."""
    try:
        return source(config, "heldout")
    except NoHeldout as error:
        key = f"data.{config.data.name}.heldout"
        if key not in HELDOUT_KEYS:
            raise
        raise NoHeldout(error.reason, f"Name a held-out set: --{key}=PATH") from error


def heldout_or_none(config: ConfigDict, use: str = "") -> Source | None:
    """Open the held-out split, or return None if there is none. A warning then names `use`, if given."""
    try:
        return heldout(config)
    except NoHeldout as error:
        if use:
            log.warning("without %s: %s", use, error)
        return None


def train_or_none(config: ConfigDict, use: str) -> Source | None:
    """Open the training split, or return None if a run of arrays has none. A warning then names `use`."""
    try:
        return source(config, "train")
    except NoHeldout as error:
        log.warning("without %s: %s", use, error)
        return None


def resolve(config: ConfigDict, train: Source) -> ConfigDict:
    """Return the config with the properties of its data filled in."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(shape=train.shape, levels=train.levels, classes=train.classes, size=train.size)
        config.data.update(class_names=train.class_names, fingerprint=fingerprint(train))
    _COMPARED.add(_key(config.data))
    return config


def with_heldout(config: ConfigDict, heldout_fingerprint: str) -> ConfigDict:
    """Return the config with the fingerprint of its held-out data filled in."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.heldout_fingerprint = heldout_fingerprint
    return config


def _is_of_run(data: ConfigDict, train: Source) -> bool:
    return train.size == data.size and data.fingerprint in ("", fingerprint(train))


def fingerprint(source: Source, examples: int = 16) -> str:
    """Return a hash of some examples, evenly spread, and of the names of files."""
    x0, label = source.read(_spread(source.size, examples))
    content = np.ascontiguousarray(x0).tobytes() + np.asarray(label, np.int32).tobytes() + source.identity.encode()
    return hashlib.sha256(content).hexdigest()[:16]


def check(config: ConfigDict, train: Source) -> None:
    """Raise ValueError for data that do not suit the config.

    Refused are classes without examples, hidden labels where the network is conditional, and floats that clipping would
    cut off.
    """
    empty = [str(train.class_names[i] if train.class_names else i) for i, n in enumerate(train.counts) if not n]
    if empty:
        raise ValueError(
            f"{train.name}: {len(empty)} of {train.classes} classes have no training example ({_short(empty)}). "
            f"Number the labels 0 … {train.classes - len(empty) - 1} without gaps (np.unique(labels, "
            "return_inverse=True)[1]), add examples, or train without labels"
        )
    if config.network.conditional and not any(train.counts):
        some = _spread(train.size, 256)
        if (train.read(some)[1] < 0).all():
            raise ValueError(
                f"{train.name}: the labels of {len(some)} examples are all hidden (-1), but network.conditional=True. "
                "Use labelled data, or network.conditional=False"
            )
    clipping = [f"{key}.clip_x0" for key in ("sampler", "bound") if clips_x0(config, config[key])]
    if train.levels or not clipping:
        return
    x0, _ = train.read(np.arange(train.size) if not train.on_disk else _spread(train.size, 256))
    low, high = float(x0.min()), float(x0.max())
    if max(-low, high) > 1 + CLIP_SLACK:
        off = " and ".join(f"{key}=False" for key in clipping)
        raise ValueError(
            f"{train.name}: values from {low:.4g} to {high:.4g}, but predictions are clipped to [-1, 1] "
            f"({', '.join(clipping)}). Scale the data to [-1, 1], or set data.mean={x0.mean(dtype=np.float64):.4g}, "
            f"data.std={x0.std(dtype=np.float64) or 1:.4g}, {off}"
        )


def check_workdir(config: ConfigDict, workdir: str) -> None:
    """Raise ValueError for a run directory inside a folder of images. The pictures of the run would join the data."""
    if config.data.name == "folder" and "://" not in workdir:
        place = pathlib.Path(files.expand(workdir)).resolve()
        for key in ("path", "heldout"):
            path = config.data.folder[key]
            if path and place.is_relative_to(pathlib.Path(files.expand(path)).resolve()):
                raise ValueError(
                    f"--workdir={workdir}: is inside data.folder.{key}={path}, whose images would come to include the "
                    "pictures of the run. Use another run directory"
                )


def summary(train: Source, heldout: Source | None) -> str:
    """Return a line on the data. Examples trained on, held out and skipped, and the histogram of the classes."""
    line = f"training on {train.size:,} examples of {train.name}"
    line += f", {heldout.size:,} held out" if heldout else ", held-out ones not used"
    if train.levels > 2 and (top := train.read(_spread(train.size, 16))[0].max()) < train.levels // 4:
        line += (
            f"; DARK: 16 of them reach level {top} of {train.levels - 1} at most (16-bit grey files: "
            "data.folder.white_point, arrays: data.arrays.levels)"
        )
    if train.note:
        line += f"; {train.note}"
    named = train.class_names or range(train.classes)
    if train.counts:
        line += f"; classes: {_short([f'{name} ({n:,})' for name, n in zip(named, train.counts, strict=True)])}"
    return line


def captions(config: ConfigDict, labels: np.ndarray) -> list[str]:
    """Return the class names of labels int [N]; "class 3" where there are only numbers."""
    names = config.data.class_names or [f"class {i}" for i in range(config.data.classes)]
    return [names[label] for label in labels]


def check_files(config: ConfigDict) -> None:
    """Read every example of both splits once. Raises ValueError with the number of bad ones and the first of them."""
    for split in SPLITS if config.eval.every else SPLITS[:1]:
        opened = source(config, split)

        def error_of(place: int, opened: Source = opened) -> str:
            try:
                opened.read(np.array([place]))
            except (OSError, ValueError) as error:
                return str(error)
            return ""

        bad = []
        with progress.track("read", opened.size) as report, concurrent.futures.ThreadPoolExecutor(16) as pool:
            for done, line in enumerate(pool.map(error_of, range(opened.size)), 1):
                bad += [line] if line else []
                report(done)
        if bad:
            raise ValueError(
                f"--check_data: {len(bad):,} of {opened.size:,} examples cannot be read. Repair or remove them. "
                f"The first: {' '.join(bad[:3])}"
            )
        log.info("%s: all %s examples can be read", opened.name, f"{opened.size:,}")


def _short(words: list[str], most: int = 10) -> str:
    """Join words by commas. Of more than `most` words, the first ones and the number of omitted words."""
    more = [f"and {len(words) - most:,} more"] if len(words) > most else []
    return ", ".join(words[:most] + more)


def _spread(size: int, number: int) -> np.ndarray:
    """Return at most `number` places of `size`, evenly spread."""
    return np.linspace(0, size - 1, min(number, size)).astype(np.int64)


def coupling(config: ConfigDict) -> Coupling | None:
    """Return the coupling of noise and examples in a batch. None for independent noise."""
    made: Coupling | None = choose("data.coupling", config.data.coupling, COUPLINGS)
    return made


def in_range(config: ConfigDict, x: ArrayLike) -> Array:
    """Return x [B,*D] as stored in the range of the model, without noise of dequantisation."""
    return to_model(x, config.data.levels, config.data.mean, config.data.std)


def make_to_model(config: ConfigDict) -> Callable[[Array, Array], Array]:
    """Return `into(x[B,*D] as stored, keys[B]) -> x0`; the keys are for dequantisation alone."""
    data = config.data

    def into(x: Array, keys: Array) -> Array:
        x0 = in_range(config, x)
        if not data.dequantise:
            return x0
        return dequantised(x0, data.levels, data.std, fold_all(keys, 2**31))

    return into


def make_from_model(config: ConfigDict) -> Callable[[ArrayLike], np.ndarray]:
    """Return `out(x0) -> x`: x0 [...,*D] as stored, the nearest grey levels, or floats.

    It raises FloatingPointError, with their number, for examples that are not finite.
    """
    data = config.data

    def out(x0: ArrayLike) -> np.ndarray:
        x0 = np.asarray(x0)
        each = x0.reshape(-1, math.prod(data.shape))
        if lost := np.count_nonzero(~np.isfinite(each).all(1)):
            raise FloatingPointError(
                f"{lost} of {len(each)} samples are not finite: the weights may have diverged. "
                "Try another --step or --ema"
            )
        return np.asarray(from_model(x0, data.levels, data.mean, data.std))

    return out
