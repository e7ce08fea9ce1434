"""The public weights of Inception: from safetensors, from a frozen graph of TensorFlow, and files that are refused."""

import json
import pathlib
import runpy

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion_jax import main
from diffusion_jax.metrics import feature_networks, feature_weights, inception_weights

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def tensors():
    with np.load(GOLDEN / "inception.npz") as file:
        return runpy.run_path(str(GOLDEN / "make_inception.py"))["draw"](json.loads(str(file["shapes"])))


def test_from_safetensors_on_the_command_line(tensors, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(feature_networks, "IMPORTED", tmp_path / "cache" / "inception.npz")
    assert main.run(["main", "stats", "--config=configs/digits.py", f"--out={tmp_path / 'x.npz'}"]) == 2
    errors = capsys.readouterr().err
    assert str(tmp_path / "cache" / "inception.npz") in errors and "import-inception" in errors
    save_file(tensors, tmp_path / "public.safetensors")
    assert main.run(["main", "import-inception", f"--path={tmp_path / 'public.safetensors'}"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    network = feature_networks.inception((32, 32, 3), 256)
    assert said["hash"] == network.weights and said["tensors"] == 2 * 94 + 1
    expected = inception_weights.folded(tmp_path, tensors)
    np.testing.assert_array_equal(network.params["fc"]["kernel"], tensors["fc.weight"].T)
    for unit in ("Conv2d_1a_3x3", "Mixed_7c/branch3x3dbl_3b"):
        found = network.params
        for part in unit.split("/"):
            found = found[part]
        np.testing.assert_array_equal(found["conv"]["kernel"], expected[f"{unit}/conv/kernel"])


def test_the_graph_has_a_scope_for_every_unit(tensors):
    units = {name.removesuffix(".conv.weight") for name in tensors if name.endswith(".conv.weight")}
    names = inception_weights.graph_names()
    assert set(names.values()) == units and len(names) == len(units) == 94
    assert names["conv_4"] == "Conv2d_4a_3x3" and names["mixed/tower_2/conv"] == "Mixed_5b.branch_pool"
    assert names["mixed_3/tower/conv_2"] == "Mixed_6a.branch3x3dbl_3" and names["mixed_3/conv"] == "Mixed_6a.branch3x3"
    assert names["mixed_7/tower_1/conv_4"] == "Mixed_6e.branch7x7dbl_5"
    assert names["mixed_10/tower_1/mixed/conv_1"] == "Mixed_7c.branch3x3dbl_3b"


@pytest.mark.slow
def test_from_a_frozen_graph(tensors, tmp_path):
    """Written by TensorFlow: some constants as bytes, some as lists, most as one repeated value; and other nodes."""
    tf = pytest.importorskip("tensorflow")
    graph = tf.compat.v1.GraphDef()

    def constant(name, value, shape=None):
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.dtypes.as_dtype(np.asarray(value).dtype).as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, shape=shape))

    norms = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    values = {}
    for scope, unit in inception_weights.graph_names().items():
        kernel = tensors[f"{unit}.conv.weight"].transpose(2, 3, 1, 0)
        whole = unit in ("Conv2d_1a_3x3", "Mixed_7c.branch_pool")
        constant(f"{scope}/conv2d_params", kernel if whole else np.float32(0.5), kernel.shape)
        values[f"{unit}.conv.weight"] = tensors[f"{unit}.conv.weight"] * whole + np.float32(0.5 * (not whole))
        for theirs, ours in norms.items():
            constant(f"{scope}/batchnorm/{theirs}", tensors[f"{unit}.bn.{ours}"])
            values[f"{unit}.bn.{ours}"] = tensors[f"{unit}.bn.{ours}"]
    graph.node[1].attr["value"].tensor.ClearField("tensor_content")
    graph.node[1].attr["value"].tensor.float_val.extend(tensors["Conv2d_1a_3x3.bn.weight"].tolist())
    constant("softmax/weights", np.float32(2), (2048, 1008))
    values["fc.weight"] = np.full((1008, 2048), 2, np.float32)
    constant("pool_3/_reshape/shape", np.array([-1, 2048], np.int32))
    graph.node.add(name="pool_3", op="AvgPool", input=["mixed_10/join"])
    (tmp_path / "graph.pb").write_bytes(graph.SerializeToString())

    shapes = feature_networks.inception_shapes()
    found = feature_networks.traverse_util.flatten_dict(inception_weights.read(tmp_path / "graph.pb", shapes))
    expected = inception_weights.folded(tmp_path, values)
    assert {"/".join(at) for at in found} == set(expected)
    for at, value in found.items():
        np.testing.assert_array_equal(value, expected["/".join(at)])

    (tmp_path / "graph.pb").write_bytes(graph.SerializeToString()[:-5])
    with pytest.raises(ValueError, match=r"graph\.pb"):
        inception_weights.read(tmp_path / "graph.pb", shapes)


def test_files_that_do_not_hold_the_public_network_are_refused(tensors, tmp_path):
    shapes = feature_networks.inception_shapes()
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        inception_weights.read(tmp_path / "none.safetensors", shapes)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights\.pth"):
        inception_weights.read(tmp_path / "weights.pth", shapes)
    (tmp_path / "broken.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(ValueError, match=r"broken\.safetensors"):
        inception_weights.read(tmp_path / "broken.safetensors", shapes)
    few = {name: value for name, value in tensors.items() if name.startswith("Conv2d_1a")}
    save_file(few, tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match=r"few\.safetensors"):
        inception_weights.read(tmp_path / "few.safetensors", shapes)
    save_file({"Conv2d_1a_3x3.conv.weight": np.zeros((1, 1, 1, 1), np.float32)}, tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3\.bn\.weight"):
        inception_weights.read(tmp_path / "few.safetensors", shapes)
    with pytest.raises(ValueError, match="features=inception"):
        feature_networks.inception((2,), 0)
    feature_weights.write(tmp_path / "digits.npz", {"conv0": {"kernel": np.zeros(3)}})
    with pytest.raises(ValueError, match=r"digits\.npz"):
        feature_networks.inception((32, 32, 3), 256, str(tmp_path / "digits.npz"))


def test_weights_that_are_no_finite_floats_are_refused(tensors, tmp_path):
    unit = {name: value for name, value in tensors.items() if name.startswith("Conv2d_1a")}
    kernel = unit["Conv2d_1a_3x3.conv.weight"]
    for name, value in (
        ("conv.weight", np.full_like(kernel, np.nan)),
        ("conv.weight", np.round(kernel).astype(np.int8)),
        ("bn.running_mean", np.full(len(kernel), np.inf, np.float16)),
        ("bn.running_var", np.full(len(kernel), -1, np.float32)),
        ("bn.weight", np.ones((1, 1), np.float32)),
    ):
        save_file(unit | {f"Conv2d_1a_3x3.{name}": value}, tmp_path / "spoilt.safetensors")
        with pytest.raises(ValueError, match=r"spoilt\.safetensors.*Conv2d_1a_3x3"):
            inception_weights.read(tmp_path / "spoilt.safetensors", {})


@pytest.mark.parametrize("suffix", ["pb", "safetensors"])
def test_other_files_by_that_name_are_refused(suffix, tmp_path):
    path, rng = tmp_path / f"x.{suffix}", np.random.default_rng(0)
    tags = np.array([10, 18, 42, 1, 2, 3, 8, 0, 5, 16, 48], np.uint8)  # of protocol buffers, and small lengths
    drawn = [rng.choice(tags, 40).tobytes() for _ in range(100)] + [rng.bytes(n) for n in range(1, 60)]
    for content in (b"", b"<!DOCTYPE html><html>404</html>", b'{"error": 404}', b"PK\x03\x04" + bytes(40), *drawn):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.{suffix}"):
            inception_weights.read(path, {("fc", "kernel"): (2, 2)})
