import contextlib
import os
import re

import numpy as np
import pytest
from damage import ANYWHERE, DRAWN, TEXT, damaged, reads_or_refuses
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_jax.data import images
from diffusion_jax.data.folder import _part, folder, place_of
from diffusion_jax.experiment import sources

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 4, 3), np.uint8)


PLACES = ["0.059171", "0.387848", "0.564107"]


def fill(root, names, pixels=PIXELS):
    for name, image in zip(names, pixels, strict=False):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return str(root)


def everything(source):
    return source.read(np.arange(source.size))


def test_images_are_in_order_of_name(tmp_path):
    names = ["b/2.PNG", "b/10.png", "a.bmp", "c/d/e.tiff", "c/f.webp"]
    path = fill(tmp_path, names[:4])
    Image.fromarray(PIXELS[4]).save(tmp_path / names[4], lossless=True)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a.png").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_text("not an image")
    source = folder("train", path, size=(6, 4), heldout_fraction=0)
    assert source.on_disk
    assert (source.shape, source.levels, source.classes, source.size) == ((6, 4, 3), 256, 0, 5)
    x0, label = everything(source)
    np.testing.assert_array_equal(x0, PIXELS[[2, 1, 0, 3, 4]])
    np.testing.assert_array_equal(label, -1)
    loaded = folder("train", path, size=(6, 4), heldout_fraction=0, in_memory=True)
    assert not loaded.on_disk
    np.testing.assert_array_equal(everything(loaded)[0], x0)


def test_linked_folders_are_followed_once(tmp_path):
    fill(tmp_path / "elsewhere", ["1.png"])
    path = fill(tmp_path / "here", ["0.png"], PIXELS[1:])
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    source = folder("train", path, size=(6, 4), heldout_fraction=0)
    np.testing.assert_array_equal(everything(source)[0], PIXELS[[1, 0]])


def test_sub_folders_are_classes_and_a_fraction_is_held_out(tmp_path):
    names = [f"{animal}/{i}.png" for animal in ("cat", "dog", "eel") for i in range(4)]
    path = fill(tmp_path, names)
    train, heldout = (
        folder(split, path, size=(6, 4), labels=True, heldout_fraction=0.25) for split in ("train", "heldout")
    )
    held = [place_of(name) < 0.25 for name in names]
    assert (train.size, heldout.size, train.classes, heldout.classes) == (12 - sum(held), sum(held), 3, 3)
    assert 0 < heldout.size < 12 and sum(train.counts) == train.size
    assert train.class_names == heldout.class_names == ("cat", "dog", "eel")
    seen = []
    for source in (train, heldout):
        for image, label in zip(*everything(source), strict=True):
            (place,) = np.flatnonzero((image == PIXELS).all((1, 2, 3)))
            assert label == place // 4
            seen.append(place)
    assert sorted(seen) == list(range(12))


NAMES = st.lists(st.text("abz019/", min_size=1, max_size=6).map(lambda name: f"{name.strip('/')}.png"), min_size=1)


@given(NAMES, NAMES, st.floats(0.01, 0.9))
def test_no_file_changes_its_split_when_others_come_or_go(names, others, fraction):
    def parts(names):
        for split in ("train", "heldout"):
            with contextlib.suppress(ValueError):
                yield from ((name, split) for name in _part("x", sorted(names), split, fraction))

    before, after = dict(parts({*names})), dict(parts({*names, *others}))
    assert before.items() <= after.items() and before.keys() == {*names}


def test_the_split_of_a_name_is_that_of_earlier_versions():
    assert [f"{place_of(name):.6f}" for name in ("0.png", "cat/1.jpg", "\udce9.png")] == PLACES
    places = np.array([place_of(f"{i:05d}.png") for i in range(10_000)])
    share = np.array([(places < f).mean() for f in (0.1, 0.5, 0.9)])
    np.testing.assert_allclose(share, (0.1, 0.5, 0.9), atol=0.025)  # five standard deviations


def test_the_fraction_that_an_error_names_holds_a_file_out(tmp_path):
    path = fill(tmp_path, ["0.png", "1.png"])
    with pytest.raises(ValueError, match="heldout_fraction") as caught:
        folder("heldout", path, size=(6, 4), heldout_fraction=1e-9)
    fraction = float(re.search(r"data\.folder\.heldout_fraction=([\d.]+)", str(caught.value))[1])
    assert folder("heldout", path, size=(6, 4), heldout_fraction=fraction).size == 1
    assert folder("train", path, size=(6, 4), heldout_fraction=1e-9).size == 2


def test_files_of_other_kinds_and_transparency_are_in_the_note(tmp_path):
    path = fill(tmp_path, ["0.png", "a.gif", "b.GIF"])
    Image.fromarray(np.dstack([PIXELS[3], PIXELS[4][..., 0]])).save(tmp_path / "1.png")
    for name in ("c.heic", "README"):
        (tmp_path / name).write_text("not read")
    source = folder("train", path, size=(6, 4), heldout_fraction=0, alpha="black")
    assert source.size == 2
    for named in ("4 files", "2 .gif", "a.gif", "1 .heic", "c.heic", "README", "1 images", "black"):
        assert named in source.note
    assert not folder("heldout", path, size=(6, 4), heldout=fill(tmp_path.parent / "w", ["0.png"])).note
    Image.fromarray(np.dstack([PIXELS[3], np.full((6, 4), 255, np.uint8)])).save(tmp_path / "1.png")
    assert "1 images have an alpha channel" in folder("train", path, size=(6, 4), heldout_fraction=0).note
    (tmp_path / "0.png").unlink(), (tmp_path / "1.png").unlink()
    with pytest.raises(ValueError, match=r"2 \.gif"):
        folder("train", path)


def test_the_same_files_elsewhere_are_the_same_data_and_others_are_not(tmp_path):
    one, other = (fill(tmp_path / name, ["0.png", "1.png"]) for name in "ab")
    prints = [sources.fingerprint(folder("train", path, size=(6, 4), heldout_fraction=0)) for path in (one, other)]
    assert prints[0] == prints[1]
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "2.png")
    assert sources.fingerprint(folder("train", other, size=(6, 4), heldout_fraction=0)) != prints[0]


def test_second_folder_is_the_heldout_split(tmp_path):
    path = fill(tmp_path / "train", ["cat/0.png", "dog/0.png", "eel/0.png"])
    other = fill(tmp_path / "val", ["eel/0.png"], PIXELS[5:])
    train = folder("train", path, size=(6, 4), labels=True, heldout=other)
    heldout = folder("heldout", path, size=(6, 4), labels=True, heldout=other)
    assert (train.size, heldout.size, heldout.classes) == (3, 1, 3)
    x0, label = everything(heldout)
    np.testing.assert_array_equal(x0[0], PIXELS[5])
    assert label.tolist() == [2]
    unknown = fill(tmp_path / "odd", ["fox/0.png"])
    with pytest.raises(ValueError, match="fox"):
        folder("heldout", path, size=(6, 4), labels=True, heldout=unknown)
    for inside in (path, str(tmp_path), f"{path}/cat"):
        with pytest.raises(ValueError, match=r"folder\.heldout"):
            folder("heldout", path, size=(6, 4), heldout=inside)


def test_missing_and_wrong_folders_raise(tmp_path):
    with pytest.raises(ValueError, match=r"folder\.path"):
        folder("train", "")
    with pytest.raises(FileNotFoundError, match=r"gone.*data\.folder\.path"):
        folder("train", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        folder("train", str(tmp_path))
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"set\.zip"):
        folder("train", str(tmp_path / "set.zip"))
    path = fill(tmp_path / "here", ["0.png", "a/1.png"])
    with pytest.raises(ValueError, match=r"0\.png"):
        folder("train", path, size=(6, 4), labels=True)
    with pytest.raises(ValueError, match="split"):
        folder("val", path)
    with pytest.raises(FileNotFoundError, match=r"none.*folder\.heldout"):
        folder("heldout", path, size=(6, 4), heldout=str(tmp_path / "none"))


def test_bad_files_raise_when_the_folder_is_opened(tmp_path):
    path = fill(tmp_path, [f"{i}.png" for i in range(4)])
    with pytest.raises(ValueError, match=r"\d\.png"):
        folder("train", path, size=6, resize="none")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes()[:20])
    with pytest.raises(ValueError, match=r"1\.png") as caught:
        folder("train", path, size=(6, 4), heldout_fraction=0)
    assert "\n" not in str(caught.value)


def test_a_broken_link_is_named(tmp_path):
    path = fill(tmp_path, ["0.png"])
    (tmp_path / "1.png").symlink_to(tmp_path / "moved.png")
    with pytest.raises(FileNotFoundError, match=r"1\.png") as caught:
        folder("train", path, size=(6, 4), heldout_fraction=0)
    assert caught.value.errno is None


def test_odd_names_are_read_and_odd_things_refused(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    for name in (b"caf\xe9/0.PNG", b"caf\xe9/a\nb.Jpeg", "caf\xe9/\u96ea \U0001f408.webp".encode()):
        os.makedirs(os.path.dirname(os.fsencode(tmp_path / "x")) + b"/" + os.path.dirname(name), exist_ok=True)
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            Image.fromarray(PIXELS[0]).save(file, {b"PNG": "png", b"peg": "jpeg", b"ebp": "webp"}[name[-3:]])
    source = folder("train", str(tmp_path), size=(6, 4), labels=True, heldout_fraction=0)
    assert source.size == 3 and source.counts == (1, 2) and everything(source)[0].shape == (3, 6, 4, 3)
    for kind, make in (("self.png", lambda file: file.symlink_to(file)), ("pipe.png", os.mkfifo)):
        make(tmp_path / kind)
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(kind)):
            folder("train", str(tmp_path), size=(6, 4), heldout_fraction=0)
        (tmp_path / kind).unlink()
    (tmp_path / "folder.png").mkdir()
    assert folder("train", str(tmp_path), size=(6, 4), heldout_fraction=0).size == 3


def test_home_is_expanded(tmp_path, monkeypatch):
    fill(tmp_path, ["a/0.png", "b/1.png"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder("heldout", "~/a", size=(6, 4), heldout="~/b").size == 1


def test_damage_past_the_header_raises_when_read(tmp_path):
    path = fill(tmp_path, ["0.png", "1.png"])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:80])
    source = folder("train", path, size=(6, 4), heldout_fraction=0)
    assert source.read(np.array([0]))[0].shape == (1, 6, 4, 3)
    with pytest.raises(ValueError, match=r"1\.png"):
        source.read(np.array([0, 1]))


def test_images_of_many_sizes_are_cropped_and_resized(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), np.uint8)).save(tmp_path / f"{i}.jpg")
    source = folder("train", str(tmp_path), size=[8, 6], channels=1, resize="center_crop", heldout_fraction=0)
    assert source.shape == (8, 6, 1)
    x0, _ = everything(source)
    rule = images.rule("folder", (8, 6), 1, "center_crop", "lanczos")
    for i in range(4):
        np.testing.assert_array_equal(x0[i], images.decode(tmp_path / f"{i}.jpg", "x", rule))


@settings(DRAWN, max_examples=100)
@given(damage=ANYWHERE)
@pytest.mark.parametrize("format", ["png", "jpg", "webp", "bmp", "tiff"])
def test_damaged_image_is_read_or_raises_one_line(tmp_path, format, damage):
    file = tmp_path / f"x.{format}"
    Image.fromarray(PIXELS[0]).save(file)
    file.write_bytes(damaged(file.read_bytes(), **damage))
    reads_or_refuses(lambda: folder("train", str(tmp_path), size=(6, 4), heldout_fraction=0), str(file))


@settings(DRAWN, max_examples=200)
@given(
    option=st.one_of(
        st.tuples(st.just("size"), st.one_of(st.integers(max_value=0), st.floats(), TEXT, st.none())),
        st.tuples(st.just("size"), st.lists(st.integers(), max_size=4)),
        st.tuples(st.just("channels"), st.one_of(st.integers(), st.floats(), TEXT, st.none())),
        st.tuples(st.sampled_from(["resize", "filter", "alpha"]), TEXT),
        st.tuples(st.sampled_from(["white_point", "max_pixels"]), st.one_of(st.integers(max_value=-1), st.floats())),
        st.tuples(st.just("heldout_fraction"), st.one_of(st.floats(1), st.floats(max_value=-1e-9), st.just(np.nan))),
        st.tuples(st.sampled_from(["path", "heldout"]), TEXT),
    )
)
def test_odd_option_values_raise_with_the_name(tmp_path, option):
    path = fill(tmp_path / "set", ["0.png", "1.png"])
    name, value = option
    assume(value not in (1, 3, 4, [6, 4]))
    options = {"path": path, "size": (6, 4), "resize": "none", name: value}
    split = "heldout" if name == "heldout" else "train"
    assert not reads_or_refuses(lambda: folder(split, **options), name, path)
