"""A file by its name is whole, and what was there before stays until then."""

import numpy as np
import pytest

from diffusion_jax import files


def test_a_file_is_replaced_by_a_whole_one(tmp_path):
    for n in (3, 2):
        files.save_npz(tmp_path / "a.npz", {"x": np.arange(n)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["x"], [0, 1])


@pytest.mark.parametrize("broken", ["savez", "replace"])
def test_what_was_there_survives_a_full_disk(tmp_path, monkeypatch, broken):
    def full(file, *_, **__):
        if broken == "savez":
            file.write(b"half")
        raise OSError(28, "No space left on device")

    files.save_npz(tmp_path / "a.npz", {"x": np.arange(3)})
    monkeypatch.setattr(np if broken == "savez" else type(files.epath.Path(tmp_path)), broken, full)
    with pytest.raises(OSError, match="No space"):
        files.save_npz(tmp_path / "a.npz", {"x": np.arange(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["x"], [0, 1, 2])
