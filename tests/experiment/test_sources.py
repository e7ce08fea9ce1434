"""Data of a config: what training refuses, and the line that training prints."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from diffusion_jax import config as configs
from diffusion_jax.data import folder
from diffusion_jax.data.source import from_arrays
from diffusion_jax.experiment import sources


def vectors(low, high, label=None, classes=0):
    x0 = np.linspace(low, high, 40, dtype=np.float32).reshape(20, 2)
    return from_arrays("vectors", x0, label, 0, classes)


def clipping(sampler, bound, target="eps"):
    sections = {"sampler": {"clip_x0": sampler}, "bound": {"clip_x0": bound}, "prediction": {"target": target}}
    return ConfigDict({**sections, "network": {"conditional": False}})


@given(st.floats(1.01, 1e30), st.booleans(), st.booleans(), st.booleans())
def test_floats_that_clipping_cuts_off_are_refused(far, negative, sampler, bound):
    low, high = (-far, 0) if negative else (0, far)
    config, train = clipping(sampler, bound), vectors(low, high)
    if not (sampler or bound):
        return sources.check(config, train)
    with pytest.raises(ValueError) as caught:
        sources.check(config, train)
    for key, clips in (("sampler.clip_x0", sampler), ("bound.clip_x0", bound)):
        assert (f"{key}=False" in str(caught.value)) is clips
    for named in ("data.mean=", "data.std=", f"{np.float32(far):.4g}"):
        assert named in str(caught.value)


def test_other_ranges_are_taken():
    sources.check(clipping(True, True), vectors(-1, 1 + 1e-6))
    sources.check(clipping(True, True, "posterior_mean"), vectors(-9, 9))
    sources.check(clipping(True, True), from_arrays("grey", np.full((4, 2, 2, 1), 255, np.uint8), None, 256, 0))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_classes_without_examples_are_refused_by_name(label):
    label = np.array(label)
    train = from_arrays("x", np.zeros((len(label), 2), np.float32), label, 0, 7)
    train = train._replace(class_names=tuple("abcdefg"))
    assert train.counts == tuple((label == i).sum() for i in range(7))
    missing = [name for i, name in enumerate("abcdefg") if i not in label]
    if not missing:
        return sources.check(clipping(True, True), train)
    with pytest.raises(ValueError) as caught:
        sources.check(clipping(True, True), train)
    assert f"({', '.join(missing)})" in str(caught.value)


@pytest.mark.parametrize("hidden", [slice(0), slice(1, None), slice(None)])
def test_conditional_networks_need_a_label_that_is_not_hidden(hidden):
    label = np.arange(20) % 3
    label[hidden] = -1
    train = vectors(-1, 1, label, 3)._replace(counts=())
    config = clipping(False, False)
    sources.check(config, train)
    config.network.conditional = True
    if (label >= 0).any():
        return sources.check(config, train)
    with pytest.raises(ValueError, match=r"network\.conditional"):
        sources.check(config, train)


def test_captions_are_the_names_of_the_classes_or_their_numbers():
    data = {"classes": 3, "class_names": ("cat", "dog", "eel")}
    assert sources.captions(ConfigDict({"data": data}), np.array([2, 0])) == ["eel", "cat"]
    assert sources.captions(ConfigDict({"data": data | {"class_names": ()}}), np.array([2, 0])) == [
        "class 2",
        "class 0",
    ]


def test_the_line_on_the_data_counts_examples_and_classes():
    train = vectors(0, 1, np.arange(20) % 3, 3)._replace(class_names=("cat", "dog", "eel"), note="2 files: a.gif")
    line = sources.summary(train, vectors(0, 1))
    for named in ("20 examples of vectors", "20 held out", "2 files: a.gif", "cat (7), dog (7), eel (6)"):
        assert named in line
    many = vectors(0, 1)._replace(classes=1000, counts=(1,) * 1000)
    assert len(sources.summary(many, None)) < 200 and "\n" not in line
    dark = from_arrays("x", np.full((40, 2, 2, 1), 15, np.uint8), None, 256, 0)
    assert "level 15 of 255" in sources.summary(dark, None)
    bright = from_arrays("x", np.full((40, 2, 2, 1), 64, np.uint8), None, 256, 0)
    assert "of 255" not in sources.summary(bright, None)


@pytest.mark.parametrize("change", ["none", "one fewer", "other content"])
def test_changed_training_data_give_one_warning(change, tmp_path, caplog, monkeypatch):
    path, x0 = str(tmp_path / "x.npy"), np.random.default_rng(0).random((50, 2), np.float32)
    np.save(path, x0)
    config = configs.defaults()
    config.data.name, config.data.arrays.path = "arrays", path
    config = sources.resolve(config, sources.source(config, "train"))
    monkeypatch.setattr(sources, "_COMPARED", set())  # another process
    np.save(path, {"none": x0, "one fewer": x0[1:], "other content": 1 - x0}[change])
    for split in ("heldout", "train"):
        sources.source(config, split)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == (change != "none") and all(path in line for line in told)
    config.data.size = 0  # imported weights have seen no data
    sources.source(config, "train")
    assert len(told) == (change != "none")


@pytest.mark.parametrize("change", ["none", "one deleted"])
def test_changed_heldout_files_give_one_warning(change, tmp_path, caplog, monkeypatch):
    for i in range(12):
        Image.effect_noise((8, 8), 99).save(tmp_path / f"{i}.png")
    config = configs.defaults()
    config.data.name, config.data.folder.path, config.data.folder.heldout_fraction = "folder", str(tmp_path), 0.5
    config = sources.resolve(config, sources.source(config, "train"))
    stored = sources.with_heldout(config, sources.fingerprint(sources.source(config, "heldout")))
    monkeypatch.setattr(sources, "_COMPARED", set())  # another process
    caplog.clear()
    if change != "none":
        next(path for path in sorted(tmp_path.iterdir()) if folder.place_of(path.name) < 0.5).unlink()
    for _ in range(2):
        sources.source(stored, "heldout")
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == (change != "none") and all(str(tmp_path) in line for line in lines)


def test_every_file_is_read_and_the_bad_ones_are_named(tmp_path):
    for i in range(6):
        Image.effect_noise((8, 8), 99).save(tmp_path / f"{i}.png")
    config = configs.defaults()
    config.data.name, config.eval.every = "folder", 0
    config.data.folder.update(path=str(tmp_path), size=(8, 8), heldout_fraction=0.0)
    sources.check_files(config)
    for i in (1, 4):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2 of 6.*/1\.png.*/4\.png"):
        sources.check_files(config)
