"""A run whose held-out data are missing or whose data have moved: each command names a flag, and the flag works."""

import re

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import config as configs
from diffusion_jax.data.source import NoHeldout
from diffusion_jax.experiment import sources
from diffusion_jax.runs import trained


@pytest.fixture(scope="module")
def place(tmp_path_factory, untrained):
    path, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    for part, count in (("train", 40), ("heldout", 30)):
        x = rng.integers(0, 17, (count, 8, 8, 1), np.uint8)
        np.savez(path / f"{part}.npz", x=x, y=np.arange(count) % 2)
    options = {"path": str(path / "train.npz"), "label_key": "y", "levels": 17, "heldout_fraction": 0.0}
    untrained(path / "run", name="arrays", arrays=options)
    return path


COMMANDS = [
    ["encode", "--out={tmp}/x.npz"],
    ["restore", "--out={tmp}/x.npz"],
    ["evaluate", "--likelihood=vlb"],
    ["evaluate", "--likelihood=ode"],
    ["evaluate", "--metrics=parzen", "--num_samples=4"],
    ["compress", "--out={tmp}/x.djx"],
    ["detect", "--odd={place}/heldout.npz", "--out={tmp}/x.npz"],
    ["represent"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words) for words in COMMANDS])
def test_the_advice_works(words, place, tmp_path, command):
    words = [word.format(tmp=tmp_path, place=place) for word in [*words, f"--workdir={place / 'run'}"]]
    done = command(*words)
    assert done.code == 2 and not any("compil" in line for line in done.err) and not list(tmp_path.iterdir())
    (flag,) = re.findall(r"--data\.[a-z.]+=", done.err[-1])
    key = flag.removeprefix("--data.").removesuffix("=").split(".")
    config = trained.read_config(str(place / "run"))
    config.data[key[0]][key[1]] = str(place / "heldout.npz")
    assert sources.heldout(config).size == 30
    assert ("--split=train" in done.err[-1]) == (words[0] == "compress")


def test_evaluation_skips_metrics_of_missing_heldout_data_and_names_the_key(place, command):
    done = command("evaluate", f"--workdir={place / 'run'}")
    assert done.code == 0 and "heldout_loss" not in done.results
    assert any("--data.arrays.heldout=" in line for line in done.err)


def test_data_that_have_moved_are_found_by_a_flag(place, tmp_path, command, monkeypatch):
    """The number of examples is checked once the data are open, and before anything compiles."""
    monkeypatch.setattr(sources, "_COMPARED", set())
    (place / "train.npz").rename(tmp_path / "moved.npz")
    words = ["restore", f"--workdir={place / 'run'}", f"--out={tmp_path / 'x.npz'}", "--num_examples=99"]
    words += [f"--data.arrays.heldout={place / 'heldout.npz'}"]
    try:
        assert str(place / "train.npz") in command(*words).err[-1]
        found = command(*words, f"--data.arrays.path={tmp_path / 'moved.npz'}")
    finally:
        (tmp_path / "moved.npz").rename(place / "train.npz")
    assert found.code == 2 and "--num_examples=99" in found.err[-1] and not any("changed" in line for line in found.err)


def test_folders_have_the_same_advice(tmp_path):
    for part in ("train", "other"):
        (tmp_path / part).mkdir()
        for i in range(3):
            Image.new("L", (8, 8), 40 * i).save(tmp_path / part / f"{i}.png")
    options = {"path": str(tmp_path / "train"), "size": (8, 8), "channels": 1, "heldout_fraction": 0.0}
    config = configs.load("digits:tiny")
    config.data.update(name="folder", folder=options)
    with pytest.raises(NoHeldout, match=r"--data\.folder\.heldout="):
        sources.heldout(config)
    config.data.folder.heldout = str(tmp_path / "other")
    assert sources.heldout(config).size == 3
