import gzip
import math
import struct

import numpy as np
import pytest
from damage import ANYWHERE, DRAWN, TEXT, damaged, reads_or_refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.data import idx as module
from diffusion_jax.data.idx import idx

IMAGES = np.arange(6 * 3 * 5, dtype=np.uint8).reshape(6, 3, 5)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)
CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def encoded(array):
    """The bytes of an IDX file: two zeros, the type, the dimensions, their sizes, the values, all big-endian."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.name], array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def name(part, kind, array, end=""):
    return f"{part}-{kind}-idx{array.ndim}-ubyte{end}"


def fill(root, end="", images=IMAGES, labels=LABELS, held=4):
    """A directory with the four files; the held-out ones have the first `held` examples."""
    root.mkdir(exist_ok=True)
    for part, count in (("train", len(images)), ("t10k", held)):
        for kind, array in (("images", images[:count]), ("labels", labels[:count])):
            content = encoded(array)
            (root / name(part, kind, array, end)).write_bytes(gzip.compress(content, mtime=0) if end else content)
    return str(root)


def everything(source):
    return source.read(np.arange(source.size))


@pytest.mark.parametrize("end", ["", ".gz"])
def test_splits_are_the_files(tmp_path, end):
    path = fill(tmp_path, end)
    for split, count in (("train", 6), ("heldout", 4)):
        source = idx(split, path)
        assert (source.shape, source.levels, source.classes, source.size) == ((3, 5, 1), 256, 3, count)
        x0, label = everything(source)
        np.testing.assert_array_equal(x0[..., 0], IMAGES[:count])
        np.testing.assert_array_equal(label, LABELS[:count])


def test_fewer_levels_have_equal_width(tmp_path):
    images = np.array([0, 63, 64, 127, 128, 191, 192, 255], np.uint8).reshape(1, 2, 4).repeat(6, 0)
    path = fill(tmp_path, images=images)
    for levels, expected in ((2, [0, 0, 0, 0, 1, 1, 1, 1]), (4, [0, 0, 1, 1, 2, 2, 3, 3])):
        for split in ("train", "heldout"):
            source = idx(split, path, levels=levels)
            assert source.levels == levels and (everything(source)[0].reshape(-1, 8) == expected).all()
    for levels in (1, 257):
        with pytest.raises(ValueError, match=r"idx\.levels"):
            idx("train", path, levels=levels)


@settings(DRAWN, max_examples=30)
@given(shape=st.lists(st.integers(1, 4), min_size=3, max_size=4), end=st.sampled_from(["", ".gz"]), data=st.data())
def test_any_array_is_read_as_it_is(tmp_path_factory, shape, end, data):
    size = math.prod(shape)
    pixels = data.draw(st.binary(min_size=size, max_size=size))
    images = np.frombuffer(pixels, np.uint8).reshape(shape)
    labels = np.arange(len(images), dtype=np.uint8)
    path = fill(tmp_path_factory.mktemp("set"), end, images, labels, held=1)
    source = idx("train", path)
    assert source.classes == len(images)
    x0, label = everything(source)
    np.testing.assert_array_equal(x0, images.reshape(*shape, 1) if len(shape) == 3 else images)
    np.testing.assert_array_equal(label, labels)


def test_without_labels_the_set_is_unlabelled(tmp_path):
    path = fill(tmp_path)
    (tmp_path / name("t10k", "labels", LABELS)).unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels"):
        idx("train", path)
    (tmp_path / name("train", "labels", LABELS)).unlink()
    source = idx("train", path)
    assert source.classes == 0 and set(everything(source)[1]) == {-1}
    with pytest.raises(ValueError, match=r"idx\.classes"):
        idx("train", path, classes=3)


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_missing_images_raise_in_both_splits(tmp_path, part):
    path = fill(tmp_path)
    (tmp_path / name(part, "images", IMAGES)).unlink()
    for split in ("train", "heldout"):
        with pytest.raises(FileNotFoundError, match=f"{part}-images"):
            idx(split, path)


def test_missing_directory_falls_back_to_debians_package(tmp_path, monkeypatch):
    package = tmp_path / "usr" / "fashion-mnist"
    monkeypatch.setattr(module, "DEBIAN", package)
    missing = str(tmp_path / "data" / "fashion-mnist")
    with pytest.raises(FileNotFoundError, match=r"idx\.path.*dataset-fashion-mnist.*prepare") as caught:
        idx("train", missing)
    assert missing in str(caught.value) and "\n" not in str(caught.value)
    package.parent.mkdir()
    fill(package, ".gz")
    assert idx("heldout", missing).size == 4
    with pytest.raises(FileNotFoundError, match="data/mnist"):
        idx("train", str(tmp_path / "data" / "mnist"))
    with pytest.raises(ValueError, match=r"idx\.path"):
        idx("train", "")
    with pytest.raises(ValueError, match="train-images"):
        idx("train", str(package / name("train", "images", IMAGES, ".gz")))


BAD = {
    "truncated": ("images", encoded(IMAGES)[:-1]),
    "too long": ("images", encoded(IMAGES) + b"0"),
    "header cut": ("images", encoded(IMAGES)[:9]),
    "empty file": ("images", b""),
    "one dimension": ("images", encoded(LABELS)),
    "five dimensions": ("images", encoded(IMAGES[..., None, None])),
    "no images": ("images", encoded(IMAGES[:0])),
    "channels first": ("images", encoded(np.zeros((6, 3, 5, 5), np.uint8))),
    "floats": ("images", encoded(IMAGES.astype(np.float32))),
    "gzip without its name": ("images", gzip.compress(encoded(IMAGES))),
    "text": ("images", b"label,pixel0\n"),
    "fewer labels": ("labels", encoded(LABELS[:2])),
    "no labels": ("labels", encoded(LABELS[:0])),
    "labels of pictures": ("labels", encoded(IMAGES)),
    "labels of integers": ("labels", encoded(LABELS.astype(np.int32))),
    "labels beyond the classes": ("labels", encoded(LABELS + 8)),
}


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("case", BAD)
def test_bad_file_raises_one_line_with_its_name(tmp_path, case, split):
    kind, content = BAD[case]
    path = fill(tmp_path, held=6)
    file = tmp_path / name(module.PARTS[split], kind, {"images": IMAGES, "labels": LABELS}[kind])
    file.write_bytes(content)
    assert not reads_or_refuses(lambda: idx(split, path, classes=3), str(file))


def test_heldout_label_that_training_has_not_raises(tmp_path):
    path = fill(tmp_path)
    file = tmp_path / name("t10k", "labels", LABELS)
    file.write_bytes(encoded(LABELS[:4] + 3))
    assert not reads_or_refuses(lambda: idx("heldout", path), str(file))


def test_gzip_that_is_none_raises(tmp_path):
    path = fill(tmp_path, ".gz")
    file = tmp_path / name("train", "images", IMAGES, ".gz")
    file.write_bytes(encoded(IMAGES))
    assert not reads_or_refuses(lambda: idx("train", path), str(file))


@settings(DRAWN, max_examples=100)
@given(damage=ANYWHERE)
@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_damaged_file_is_read_or_raises_one_line(tmp_path, end, kind, damage):
    path = fill(tmp_path, end)
    file = tmp_path / name("train", kind, {"images": IMAGES, "labels": LABELS}[kind], end)
    file.write_bytes(damaged(file.read_bytes(), **damage))
    reads_or_refuses(lambda: idx("train", path), str(file))


@settings(DRAWN, max_examples=50)
@given(path=TEXT)
def test_odd_paths_raise_with_the_name(path):
    assert not reads_or_refuses(lambda: idx("train", path), "idx.path", path)
