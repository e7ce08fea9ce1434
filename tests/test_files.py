"""Files are replaced by whole ones or not at all, and JSON holds numbers that are not finite."""

import json
import math
import pathlib

import numpy as np
import pytest

from diffusion_jax import files


def test_a_file_is_replaced_by_a_whole_one(tmp_path):
    for n in (3, 2):
        files.save_npz(tmp_path / "a.npz", {"x": np.arange(n)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["x"], [0, 1])


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("~", "/home/me"),
        ("~/a", "/home/me/a"),
        ("a/~", "a/~"),
        ("file:///a/b", "/a/b"),
        ("gs://~/a", "gs://~/a"),
        ("", ""),
    ],
)
def test_paths_are_those_of_the_system(path, expanded, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expand(path) == expanded


def test_paths_are_expanded_in_one_place():
    """`config` finds recipes without this module; `environment` has a path of its own."""
    package = pathlib.Path(files.__file__).parent
    found = {str(path.relative_to(package)) for path in package.glob("**/*.py") if "expanduser(" in path.read_text()}
    assert found == {"files.py", "config/recipes_and_sweeps.py", "cli/environment.py"}


@pytest.mark.parametrize("broken", ["savez", "replace"])
def test_the_old_file_survives_a_full_disk(tmp_path, monkeypatch, broken):
    def full(file, *_, **__):
        if broken == "savez":
            file.write(b"half")
        raise OSError(28, "No space left on device")

    files.save_npz(tmp_path / "a.npz", {"x": np.arange(3)})
    monkeypatch.setattr(np if broken == "savez" else type(files.epath.Path(tmp_path)), broken, full)
    with pytest.raises(OSError):
        files.save_npz(tmp_path / "a.npz", {"x": np.arange(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["x"], [0, 1, 2])


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with files.replacing(tmp_path / "d") as folder:
        folder.mkdir()
        (folder / "a").write_text("1")
        assert not (tmp_path / "d").exists()
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["a"]
    with pytest.raises(KeyError), files.replacing(tmp_path / "e") as folder:
        folder.mkdir()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_numbers_that_are_not_finite_survive_json(tmp_path):
    value = {"a": math.inf, "b": [-math.inf, 1.5], "c": ("x", {"d": 2}), "e": True}
    files.save_json(tmp_path / "a.json", value)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    stored = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert stored == {"a": "inf", "b": ["-inf", 1.5], "c": ["x", {"d": 2}], "e": True}
    assert files.number(stored["a"]) == math.inf and files.number("x") == "x" and files.number(1.5) == 1.5
    assert math.isnan(files.number(files.json_ready(math.nan)))
