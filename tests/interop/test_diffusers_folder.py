import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import saved_models

from diffusion_jax.interop import diffusers_folder

TENSORS = {"b.weight": np.float32([[1, 2], [3, 4]]), "a.bias": np.float32([np.pi])}


def test_written_tensors_are_read_bit_for_bit(tmp_path):
    diffusers_folder.write(tmp_path / "new" / "model", {"sample_size": 8}, {"beta_end": 0.02}, TENSORS)
    folder = diffusers_folder.find(tmp_path / "new" / "model")
    found = diffusers_folder.read_tensors(folder)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True)
    assert json.loads((folder / "config.json").read_text()) == {"sample_size": 8}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


def test_half_precision_is_read_exactly(tmp_path):
    safetensors.numpy.save_file({"a": np.float16([1 / 3])}, tmp_path / diffusers_folder.WEIGHTS)
    np.testing.assert_array_equal(
        diffusers_folder.read_tensors(tmp_path)["a"], np.float32([np.float16(1 / 3)]), strict=True
    )


def test_bfloat16_is_read_exactly(tmp_path):
    halves = np.float32([1 / 3, -2.5]).astype(jnp.bfloat16)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + halves.tobytes()
    (tmp_path / diffusers_folder.WEIGHTS).write_bytes(content)
    np.testing.assert_array_equal(diffusers_folder.read_tensors(tmp_path)["a"], halves.astype(np.float32), strict=True)


def test_a_pipeline_and_its_unet_are_the_same(tmp_path):
    folder = saved_models.write(tmp_path / "unet")
    assert diffusers_folder.find(tmp_path) == diffusers_folder.find(folder) == folder
    with pytest.raises(FileNotFoundError, match=r"nothing.*config\.json"):
        diffusers_folder.find(tmp_path / "nothing")


def test_no_weights_is_an_error(tmp_path):
    shard = "diffusion_pytorch_model-00001-of-00002.safetensors"
    (tmp_path / shard).touch()
    with pytest.raises(FileNotFoundError, match=shard):
        diffusers_folder.read_tensors(tmp_path)
    (tmp_path / shard).unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safet"):
        diffusers_folder.read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt"])
def test_a_pickle_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match=name):
        diffusers_folder.read_tensors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04" + bytes(100)])
def test_files_that_are_not_safetensors_are_refused(content, tmp_path):
    (tmp_path / diffusers_folder.WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors"):
        diffusers_folder.read_tensors(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
    file = saved_models.write(tmp_path / "model") / diffusers_folder.WEIGHTS
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors"):
        diffusers_folder.read_tensors(file.parent)


def test_other_types_are_refused(tmp_path):
    safetensors.numpy.save_file({"a": np.float64([1])}, tmp_path / diffusers_folder.WEIGHTS)
    with pytest.raises(ValueError, match=r"a .*F64"):
        diffusers_folder.read_tensors(tmp_path)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "kept").write_text("mine")
    for path in (tmp_path, tmp_path / "kept"):
        with pytest.raises(ValueError, match="--path="):
            diffusers_folder.write(path, {}, {}, TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and (tmp_path / "kept").read_text() == "mine"


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        diffusers_folder.write(tmp_path / "model", {"no JSON": object()}, {}, TENSORS)
    assert not list(tmp_path.iterdir())
