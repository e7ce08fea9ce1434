import pathlib
import pickle
import re

import numpy as np
import pytest
from damage import ANYWHERE, DRAWN, TEXT, damaged, reads_or_refuses
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffusion_jax.data.arrays import arrays

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 4, 3), np.uint8)
LABELS = np.arange(20) % 3


@pytest.fixture
def save(tmp_path):
    """save(name, array or dict) -> path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            np.savez(path, **content)
        else:
            np.save(path, content)
        return str(path)

    return write


def everything(source):
    return source.read(np.arange(source.size))


def rows(x):
    return {row.tobytes() for row in x}


@pytest.mark.parametrize(
    ("given", "shape", "levels", "options"),
    [
        (IMAGES, (6, 4, 3), 256, {}),
        (IMAGES[..., 0], (6, 4, 1), 256, {}),
        (IMAGES.astype(np.int64), (6, 4, 3), 256, {}),
        (IMAGES.astype(">i2"), (6, 4, 3), 256, {}),
        (np.asfortranarray(IMAGES), (6, 4, 3), 256, {}),
        (IMAGES % 17, (6, 4, 3), 17, {"levels": 17}),
        (IMAGES > 127, (6, 4, 3), 2, {"levels": 2}),
        (IMAGES[:, :, 0, 0] % 2, (6,), 2, {"levels": 2}),
        (IMAGES[:, :, 0, 0].astype(np.float32), (6,), 0, {}),
        (IMAGES[:, :, 0, 0].astype(">f8"), (6,), 0, {}),
        (IMAGES[:, :, 0, 0].astype(np.float16), (6,), 0, {}),
        (IMAGES / np.float32(255), (6, 4, 3), 0, {"levels": 0}),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_valid_arrays(save, given, shape, levels, options, suffix):
    path = save("x.npy", given) if suffix == "npy" else save("x.npz", {"images": given})
    source = arrays("train", path, heldout_fraction=0, **options)
    assert (source.shape, source.levels, source.classes, source.size) == (shape, levels, 0, 20)
    x0, label = everything(source)
    assert x0.dtype == (np.uint8 if levels else np.float32)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(x0, given[order].reshape(x0.shape))
    np.testing.assert_array_equal(label, -1)


def test_labels_stay_with_their_examples_in_both_splits(save):
    path = save("x.npz", {"images": IMAGES, "labels": LABELS})
    train, heldout = (arrays(split, path, label_key="labels", heldout_fraction=0.25) for split in ("train", "heldout"))
    assert (train.size, heldout.size, train.classes, heldout.classes) == (15, 5, 3, 3)
    label_of = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    for source in (train, heldout):
        x0, label = everything(source)
        assert [label_of[image.tobytes()] for image in x0] == label.tolist()
    assert rows(everything(train)[0]) | rows(everything(heldout)[0]) == rows(IMAGES)
    assert not rows(everything(train)[0]) & rows(everything(heldout)[0])


def test_labels_in_a_column_and_names_in_capitals_are_read(save, tmp_path):
    path = save("x.npz", {"images": IMAGES, "labels": LABELS[:, None].astype(np.uint8)})
    (tmp_path / "x.npz").rename(tmp_path / "X.NPZ")
    source = arrays("train", str(tmp_path / "X.NPZ"), label_key="labels", heldout_fraction=0)
    assert source.counts == (7, 7, 6) and path


def test_second_file_is_the_heldout_split(save):
    path = save("train.npz", {"x": IMAGES[:15], "y": LABELS[:15]})
    other = save("test.npz", {"x": IMAGES[15:17], "y": LABELS[15:17]})
    train = arrays("train", path, label_key="y", heldout=other)
    heldout = arrays("heldout", path, label_key="y", heldout=other)
    np.testing.assert_array_equal(everything(train)[0], IMAGES[:15])
    np.testing.assert_array_equal(everything(heldout)[0], IMAGES[15:17])
    assert (train.classes, heldout.classes) == (3, 3)


def test_key_is_needed_for_several_arrays(save):
    path = save("x.npz", {"a": IMAGES, "b": IMAGES[:, :2], "labels": LABELS})
    assert arrays("train", path, key="b").shape == (2, 4, 3)
    with pytest.raises(ValueError, match="key"):
        arrays("train", path)
    with pytest.raises(ValueError, match=r"arrays\.key"):
        arrays("train", save("y.npz", {"labels": LABELS}))
    with pytest.raises(ValueError, match="key"):
        arrays("train", path, key="c")
    with pytest.raises(ValueError, match="'c'"):
        arrays("train", path, key="a", label_key="c")
    with pytest.raises(ValueError, match="label_key"):
        arrays("train", save("x.npy", IMAGES), label_key="labels")


def poisoned(value):
    x = np.zeros((4, 3), np.float32)
    x[2, 1] = value
    return x


@pytest.mark.parametrize(
    ("given", "options", "named"),
    [
        (IMAGES / 255, {}, "levels"),
        (poisoned(np.nan), {}, r"x\.npy"),
        (poisoned(-np.inf), {}, r"x\.npy"),
        (poisoned(1.0).astype(np.float64) * 1e200, {}, r"x\.npy"),
        (IMAGES.astype(np.int32) - 1, {}, "int32"),
        (IMAGES.astype(np.uint16) + 1, {}, "uint16"),
        (IMAGES, {"levels": 17}, "uint8"),
        (IMAGES, {"levels": 0}, "levels"),
        (IMAGES > 3, {}, "levels"),
        (np.moveaxis(np.tile(IMAGES, (1, 1, 2, 1)), -1, 1), {}, r"x\.npy"),
        (IMAGES.astype(np.complex64), {}, "complex64"),
        (np.array([["a", "b"]]), {}, "<U1"),
        (np.zeros(3, np.uint8), {}, r"x\.npy"),
        (np.zeros((0, 4, 4), np.uint8), {}, r"x\.npy"),
        (np.zeros((4, 0), np.float32), {}, r"x\.npy"),
        (IMAGES[:1], {}, r"x\.npy"),
        (IMAGES, {"heldout_fraction": -0.1}, "heldout_fraction"),
        (IMAGES, {"levels": 300}, r"arrays\.levels"),
        (IMAGES, {"classes": 3}, "classes.*label_key"),
        (np.zeros((5, 3, 8, 8), np.float32), {"levels": 0}, "N,H,W,C"),
        (IMAGES.astype(np.complex64), {}, "complex64"),
        (np.zeros((3, 2), "datetime64[s]"), {}, "datetime64"),
        (np.zeros((3, 2), [("a", "u1")]), {}, "dtype"),
    ],
)
def test_invalid_arrays_raise(save, given, options, named):
    with pytest.raises(ValueError, match=named) as caught:
        arrays("train", save("x.npy", given), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "options", "named"),
    [
        (LABELS[:19], {}, "labels"),
        (np.eye(3)[LABELS], {}, "labels"),
        (LABELS / 1.0, {}, "labels"),
        (LABELS - 1, {}, "labels"),
        (np.array(["cat", "dog"] * 10), {}, "return_inverse"),
        (np.stack([LABELS, LABELS], 1), {}, "labels"),
        (LABELS + 2**60, {}, "labels"),
        (LABELS, {"classes": 2}, "labels"),
    ],
)
def test_invalid_labels_raise(save, labels, options, named):
    path = save("x.npz", {"images": IMAGES, "labels": labels})
    with pytest.raises(ValueError, match=named):
        arrays("train", path, key="images", label_key="labels", **options)


def test_missing_and_wrong_files_raise(save, tmp_path):
    with pytest.raises(ValueError, match=r"arrays\.path"):
        arrays("train", "")
    with pytest.raises(FileNotFoundError, match=r"gone\.npz.*data\.arrays\.path"):
        arrays("train", str(tmp_path / "gone.npz"))
    with pytest.raises(ValueError, match=r"data\.name=folder"):
        arrays("train", str(tmp_path))
    with pytest.raises(ValueError, match=r"x\.txt"):
        arrays("train", save("x.txt", b"hello"))
    whole = (tmp_path / save("whole.npz", {"images": IMAGES})).read_bytes()
    damaged = whole[:200] + bytes(255 - byte for byte in whole[200:300]) + whole[300:]
    single = (tmp_path / save("single.npy", IMAGES)).read_bytes()
    for name, content in (
        ("empty.npz", b""),
        ("empty.npy", b""),
        ("text.npy", b"hello, I am no array"),
        ("cut.npz", whole[:300]),
        ("damaged.npz", damaged),
        ("cut.npy", single[:-10]),
    ):
        with pytest.raises(ValueError, match=name) as caught:
            arrays("train", save(name, content))
        assert "\n" not in str(caught.value)
    for name, content in (("really.npy", whole), ("really.npz", single)):
        with pytest.raises(ValueError, match=r"\.np[yz]"):
            arrays("train", save(name, content))


def test_pickled_objects_raise(save):
    ragged = np.empty(2, object)
    ragged[:] = [IMAGES[0], IMAGES[1, :2]]
    for path in (
        save("x.npy", ragged),
        save("x.npz", {"images": ragged}),
        save("bare.npy", pickle.dumps([1, 2])),
    ):
        with pytest.raises(ValueError, match=re.escape(path)) as caught:
            arrays("train", path)
        assert "\n" not in str(caught.value)


def test_mismatched_heldout_files_raise(save):
    path = save("train.npz", {"x": IMAGES, "y": LABELS})
    with pytest.raises(ValueError, match=r"arrays\.heldout"):
        arrays("heldout", path, heldout=path)
    with pytest.raises(ValueError, match=r"small\.npz"):
        arrays("heldout", path, heldout=save("small.npz", {"x": IMAGES[:, :2]}))
    with pytest.raises(ValueError, match=r"more\.npz"):
        arrays("heldout", path, label_key="y", heldout=save("more.npz", {"x": IMAGES, "y": LABELS + 3}))


def test_a_mapped_file_that_is_cut_short_is_named_and_a_deleted_one_read_on(save):
    path = save("x.npy", IMAGES)
    for split in ("train", "heldout"):
        opened = arrays(split, path)
        with open(path, "r+b") as file:
            file.truncate(200)
        with pytest.raises(ValueError, match=re.escape(path)):
            opened.read(np.arange(1))
        pathlib.Path(path).unlink()
        save("x.npy", IMAGES)
    opened = arrays("train", path)
    before = opened.read(np.arange(opened.size))[0]
    pathlib.Path(path).unlink()
    np.testing.assert_array_equal(opened.read(np.arange(opened.size))[0], before)


@settings(DRAWN, max_examples=100)
@given(damage=ANYWHERE)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_damaged_file_is_read_or_raises_one_line(save, suffix, damage):
    path = pathlib.Path(save(f"x.{suffix}", IMAGES[:4] if suffix == "npy" else {"images": IMAGES[:4]}))
    content = path.read_bytes()
    path.unlink()  # the array of the example before may still be mapped
    path.write_bytes(damaged(content, **damage))
    reads_or_refuses(lambda: arrays("train", str(path), heldout_fraction=0), str(path))


@settings(DRAWN, max_examples=200)
@given(
    option=st.one_of(
        st.tuples(st.just("levels"), st.one_of(st.integers(max_value=-1), st.integers(257), st.just(1))),
        st.tuples(st.just("heldout_fraction"), st.one_of(st.floats(1), st.floats(max_value=-1e-9), st.just(np.nan))),
        st.tuples(st.just("classes"), st.integers(max_value=2)),
        st.tuples(st.sampled_from(["key", "label_key"]), TEXT),
        st.tuples(st.sampled_from(["path", "heldout"]), TEXT),
    )
)
def test_odd_option_values_raise_with_the_name(save, option):
    path = save("x.npz", {"images": IMAGES, "labels": LABELS})
    name, value = option
    options = {"path": path, "key": "images", "label_key": "labels", name: value}
    assume(value not in ("images", "labels", 0))
    split = "heldout" if name == "heldout" else "train"
    assert not reads_or_refuses(lambda: arrays(split, **options), name, path)
