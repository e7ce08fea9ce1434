"""Data source: prepared image sets of TensorFlow Datasets, read without TensorFlow."""

import functools
import json
import os
import pathlib
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from diffusion_jax.data import images
from diffusion_jax.data.source import Source, check_split, from_items, load, readable, reason
from diffusion_jax.files import expand

FORMAT = "array_record"
INFO = "dataset_info.json"
AGAIN = "Copy the whole directory, or prepare it again"


def tfds(
    split: str,
    dataset: str = "",
    data_dir: str = "",
    train: str = "train",
    heldout: str = "test",
    image_key: str = "image",
    label_key: str = "label",
    size: int | Sequence[int] = (),
    channels: int = 0,
    resize: str = "none",
    filter: str = "lanczos",
    alpha: str = "white",
    in_memory: bool = False,
) -> Source:
    """Return a split of a prepared set, such as "cifar10", "imagenet_resized/64x64" or "mnist:3.0.1".

    data_dir: the directory of `prepare`. train, heldout: names of splits, slices such as "train[90%:]" included.
    image_key, label_key: the features to read; label_key "": unlabelled. size, channels: 0: as in the set; size is
    needed where the images differ in size. resize, filter, alpha: see `images.Rule`. in_memory: decode all examples
    once.

    Raises FileNotFoundError with the command that prepares the set, or ValueError.
    """
    check_split(split)
    data_dir = expand(data_dir)
    directory = _directory(dataset, data_dir)
    found = _readable(directory) if directory else None
    if not found:
        state = f"is prepared, but not as {FORMAT}," if directory else "is not prepared"
        raise FileNotFoundError(
            f"data.tfds.dataset={dataset!r} {state} in {data_dir}. Run: python -m diffusion_jax.main prepare "
            f"--config=CONFIG --config.data.name=tfds --config.data.tfds.dataset={dataset} "
            f"--config.data.tfds.data_dir={data_dir}"
        )
    import tensorflow_datasets

    with readable(f"{dataset} in {found}", AGAIN):
        builder = tensorflow_datasets.builder_from_directory(str(found))
        splits, features = builder.info.splits, builder.info.features
    wanted = {"train": train, "heldout": heldout}[split]
    _check_disjoint(splits, train, heldout)
    _check_files(dataset, splits, wanted)
    image, names = _features(dataset, features, image_key, label_key)
    height, width, own_channels = image.shape
    if not size:
        if not (height and width):
            raise ValueError(
                f"data.tfds.size: images of {dataset} differ in size. Set size, and resize to center_crop or stretch"
            )
        size = (height, width)
    rule = images.rule("tfds", size, channels or own_channels, resize, filter, alpha)
    raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
    try:
        records = builder.as_data_source(split=wanted, deserialize_method=raw)
    except Exception as error:
        raise ValueError(f"{dataset}: split {wanted!r} cannot be opened ({reason(error)}). Choose another") from error
    name = f"{dataset}/{wanted}"
    wanted_features = tensorflow_datasets.features.FeaturesDict(
        {key: features[key] for key in (image_key, label_key) if key}
    )
    encoded = {image_key: tensorflow_datasets.decode.SkipDecoding()}
    parse = functools.partial(wanted_features.deserialize_example_np, decoders=encoded)
    classes = len(names)
    item = functools.partial(_item, name, records, parse, image_key, label_key, classes, rule)
    note = ""
    if own_channels == 4 and rule.channels < 4:
        note = f"images with transparency are laid over {alpha} (data.tfds.alpha)"
    source = from_items(name, rule.shape, 256, classes, len(records), item)._replace(note=note)
    if names != tuple(map(str, range(classes))):  # as TensorFlow Datasets calls classes without names
        source = source._replace(class_names=names)
    return load(source) if in_memory else source


def _item(
    name: str,
    records: Any,
    parse: Callable[[bytes], dict[str, Any]],
    image_key: str,
    label_key: str,
    classes: int,
    rule: images.Rule,
    place: int,
) -> tuple[np.ndarray, int]:
    """Decode the image and the label of one record, and no other feature."""
    what = f"{name}, example {place}"
    with readable(what, AGAIN):
        example = parse(records[place])
        label = int(example[label_key]) if label_key else -1
    if not -1 <= label < max(classes, 1):
        raise ValueError(f"{what}: label {label} is not in 0 … {classes - 1}. {AGAIN}")
    return images.decode(example[image_key], what, rule), label


def _features(dataset: str, features: Any, image_key: str, label_key: str) -> tuple[Any, tuple[str, ...]]:
    """Return the checked image feature and the names of the classes."""
    for option, key in (("image_key", image_key), ("label_key", label_key)):
        if key not in features and (key or option == "image_key"):
            none = ', or "" for unlabelled data' if option == "label_key" else ""
            raise ValueError(
                f"data.tfds.{option}={key!r}: not a feature of {dataset}. Use one of {', '.join(features)}{none}"
            )
    image, label = features[image_key], features[label_key] if label_key else None
    if type(image).__name__ != "Image" or np.dtype(image.np_dtype) != np.uint8:
        raise ValueError(
            f"data.tfds.image_key={image_key!r}: {image} of {dataset} is not an 8-bit image. Use another feature"
        )
    if label is not None and not (type(label).__name__ == "ClassLabel" and label.num_classes):
        raise ValueError(
            f'data.tfds.label_key={label_key!r}: {label} of {dataset} has no classes. Use a ClassLabel, or ""'
        )
    return image, tuple(label.names) if label is not None else ()


def _check_disjoint(splits: Any, train: str, heldout: str) -> None:
    """Raise ValueError if two splits or slices of a set have examples in common."""

    def parts(name: str) -> list[tuple[str, int, int]]:
        """Return (file, first example, end) of a split; [] for one that does not exist."""
        try:
            read = splits[name].file_instructions
        except (KeyError, ValueError, AssertionError):
            return []
        return [(one.filename, one.skip, one.skip + one.take) for one in read]

    held = parts(heldout)
    if any(file == other and max(a, c) < min(b, d) for file, a, b in parts(train) for other, c, d in held):
        raise ValueError(
            f"data.tfds.train={train!r} and data.tfds.heldout={heldout!r}: overlap. Use two disjoint splits"
        )


def _check_files(dataset: str, splits: Any, wanted: str) -> None:
    """Check that a split exists with all its files. Raises ValueError or FileNotFoundError."""
    name = wanted.split("[")[0]
    if name not in splits:
        raise ValueError(
            f"{dataset}: no split {wanted!r}. Set data.tfds.train and data.tfds.heldout to two of {', '.join(splits)}"
        )
    with readable(f"{dataset}: split {name!r}", AGAIN):
        files = splits[name].filepaths
    for file in files:
        if not os.path.exists(file):
            raise FileNotFoundError(f"{file}: is missing from {dataset}. {AGAIN}")


def prepare(dataset: str, data_dir: str) -> str:
    """Prepare a set for reading in `data_dir`, unless it is prepared, and return its directory.

    TFRecord files are converted, into a folder of their own beside them, without TensorFlow. Otherwise the set is
    downloaded and built, which needs TensorFlow and, for most sets, a network connection. Raises ValueError.
    """
    data_dir = expand(data_dir)
    directory = _directory(dataset, data_dir) or _build(dataset, data_dir)
    return str(_readable(directory) or _convert(directory))


def _build(dataset: str, data_dir: str) -> pathlib.Path:
    try:
        import tensorflow
    except ImportError as error:
        raise ValueError(
            f"data.tfds.dataset={dataset}: preparing it needs TensorFlow. Run pip install 'diffusion_jax[tf]', or "
            f"copy a prepared directory to {data_dir}"
        ) from error
    import tensorflow_datasets

    tensorflow.config.set_visible_devices([], "GPU")
    try:
        builder = tensorflow_datasets.builder(dataset, data_dir=data_dir, file_format=FORMAT)
        builder.download_and_prepare()
    except Exception as error:
        raise ValueError(
            f"{dataset}: cannot be downloaded or built in {data_dir} ({reason(error)}). Without a network, run "
            f"the same command on another machine and copy its {data_dir}"
        ) from error
    return pathlib.Path(builder.data_dir)


def _directory(dataset: str, data_dir: str) -> pathlib.Path | None:
    """Return the directory of a set, or None: data_dir/NAME[/CONFIGURATION]/VERSION, the highest version by default."""
    if not dataset:
        raise ValueError("data.tfds.dataset: is empty. Set it to the name of a set, such as cifar10")
    if not data_dir:
        raise ValueError("data.tfds.data_dir: is empty. Set it to the directory of the prepared sets")
    name, _, version = dataset.partition(":")
    parent = pathlib.Path(data_dir) / name
    folders = [found.name for found in parent.iterdir() if found.is_dir()] if parent.is_dir() else []
    versions = [found for found in folders if re.fullmatch(r"\d+\.\d+\.\d+", found) and version in ("", found)]
    best = max(versions, key=lambda found: [int(part) for part in found.split(".")], default=None)
    configs = [found for found in folders if "incomplete" not in found and not re.fullmatch(r"[\d.]+", found)]
    if best is None and configs and "/" not in name:
        raise ValueError(f"data.tfds.dataset={dataset!r}: needs a configuration, such as {name}/{sorted(configs)[0]}")
    return parent / best if best and (parent / best / INFO).exists() else None


def _readable(directory: pathlib.Path) -> pathlib.Path | None:
    """Return the directory itself, or the converted one inside it, whichever has array_record files."""
    places = (directory, directory / FORMAT)
    return next((place for place in places if (place / INFO).exists() and _info(place)["fileFormat"] == FORMAT), None)


def _info(directory: pathlib.Path) -> dict[str, Any]:
    with readable(str(directory / INFO), AGAIN):
        return {"fileFormat": "tfrecord", **json.loads((directory / INFO).read_text())}


def _convert(directory: pathlib.Path) -> pathlib.Path:
    """Convert a TFRecord build to array_record, in a folder inside it."""
    from array_record.python.array_record_module import ArrayRecordWriter

    info = _info(directory)
    if info["fileFormat"] != "tfrecord":
        raise ValueError(f"{directory}: has {info['fileFormat']} files, not tfrecord. Move it away and prepare again")
    partial, target = directory / f"incomplete.{FORMAT}", directory / FORMAT
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for file in directory.iterdir():
        if file.suffix in (".json", ".txt"):
            shutil.copy(file, partial)
    with readable(str(directory / INFO), AGAIN):
        shards = {split["name"]: [int(length) for length in split.get("shardLengths", [])] for split in info["splits"]}
        stems = {name: f"{info['name']}-{name}" for name in shards}
    for name, lengths in shards.items():
        for shard, length in enumerate(lengths):
            stem, place = stems[name], f"{shard:05d}-of-{len(lengths):05d}"
            origin = directory / f"{stem}.tfrecord-{place}"
            if not origin.exists():
                raise FileNotFoundError(f"{origin}: is missing. {AGAIN} elsewhere")
            writer, written = ArrayRecordWriter(str(partial / f"{stem}.{FORMAT}-{place}"), "group_size:1"), 0
            for record in _records(origin):
                writer.write(record)
                written += 1
            writer.close()
            if written != length:
                raise ValueError(f"{origin}: has {written} examples, not {length}. Prepare or copy it again")
    for split in info["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    (partial / INFO).write_text(json.dumps(info | {"fileFormat": FORMAT}, indent=2))
    partial.rename(target)
    return target


def _records(file: pathlib.Path) -> Iterator[bytes]:
    """Iterate over the records of a TFRecord file.

    A record is its length uint64, checksum uint32, the bytes, and their checksum uint32.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        while head := stream.read(12):
            length = struct.unpack("<QI", head)[0] if len(head) == 12 else size
            if length + 4 > size - stream.tell():
                raise ValueError(f"{file}: ends in the middle of an example. Prepare or copy it again")
            yield stream.read(length)
            stream.read(4)
