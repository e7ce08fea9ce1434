import json
import pathlib
import shutil
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
from damage import ANYWHERE, DRAWN, TEXT, damaged, reads_or_refuses
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffusion_jax.data import pipeline
from diffusion_jax.data.tfds import prepare, tfds

ROOT = pathlib.Path(__file__).parents[2]

PREPARE = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
from diffusion_jax.data.tfds import prepare

class TinySet(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(4, 6, 3)),
            "grey": tfds.features.Image(shape=(4, 6, 1)),
            "clear": tfds.features.Image(shape=(4, 6, 4)),
            "photo": tfds.features.Image(shape=(None, None, 3)),
            "deep": tfds.features.Image(shape=(4, 6, 1), dtype=np.uint16),
            "label": tfds.features.ClassLabel(num_classes=5),
            "kind": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            "number": tfds.features.Scalar(dtype=np.int64),
            "nested": {"flags": tfds.features.Sequence({"on": np.bool_})},
        }))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 27)}

    def _generate_examples(self, first, last):
        images = np.random.default_rng(0).integers(0, 256, (27, 4, 6, 3), np.uint8)
        for i in range(first, last):
            yield i, {
                "image": images[i], "grey": images[i, ..., :1], "photo": np.full((4 + i % 3, 6, 3), i, np.uint8),
                "clear": np.concatenate([images[i], np.zeros((4, 6, 1), np.uint8)], 2),
                "deep": images[i, ..., :1].astype(np.uint16), "label": i % 5, "number": i, "kind": i % 3,
                "nested": {"flags": [{"on": True}]},
            }

root = sys.argv[1]
tfds.builder("tiny_set", data_dir=root + "/old", file_format="tfrecord").download_and_prepare()
said = {"new": prepare("tiny_set", root + "/new")}
for name in ("no_such_set_at_all", "tiny_set/no_such_config"):
    try:
        prepare(name, root + "/none")
    except ValueError as error:
        said[name] = str(error)
print(json.dumps(said))
"""

READ = """
import sys
import numpy as np
from diffusion_jax.data import pipeline
from diffusion_jax.data.tfds import prepare, tfds
prepare("tiny_set", sys.argv[1])
source = tfds("train", "tiny_set", sys.argv[1])
batch = next(pipeline.batches(source, 0, 0, 8, True))
assert batch["x0"].shape == (8, 4, 6, 3)
assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
"""


def python(script, *args):
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", script, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A directory with the set as TFRecord in old/ and as array_record in new/, and what `prepare` said."""
    root = tmp_path_factory.mktemp("tfds")
    return root, json.loads(python(PREPARE, root).splitlines()[-1])


@pytest.fixture(scope="session")
def data_dir(prepared):
    return str(prepared[0] / "new")


def images():
    return np.random.default_rng(0).integers(0, 256, (27, 4, 6, 3), np.uint8)


def everything(source):
    return source.read(np.arange(source.size))


def test_prepared_set_is_complete(data_dir):
    train, heldout = tfds("train", "tiny_set", data_dir), tfds("heldout", "tiny_set", data_dir)
    assert train.on_disk and train.name == "tiny_set/train"
    assert (train.shape, train.levels, train.classes, train.size) == ((4, 6, 3), 256, 5, 20)
    assert heldout.size == 7
    found = []
    for source in (train, heldout):
        for image, label in zip(*everything(source), strict=True):
            (place,) = np.flatnonzero((image == images()).all((1, 2, 3)))
            assert label == place % 5
            found.append(place)
    assert sorted(found[:20]) == list(range(20)) and sorted(found) == list(range(27))


def test_version_order_and_memory_do_not_change_the_examples(data_dir):
    source = tfds("train", "tiny_set:1.2.0", data_dir)
    x0, label = everything(source)
    loaded = tfds("train", "tiny_set", data_dir, in_memory=True)
    assert not loaded.on_disk
    np.testing.assert_array_equal(loaded.read(np.arange(20))[0], x0)
    sent = cloudpickle.loads(cloudpickle.dumps(source))
    np.testing.assert_array_equal(sent.read(np.array([7, 3]))[0], x0[[7, 3]])
    np.testing.assert_array_equal(sent.read(np.array([7, 3]))[1], label[[7, 3]])
    ahead, direct = next(pipeline.batches(source, 0, 2, 8, True)), pipeline.batch(loaded, 0, 2, 8, True)
    for name in direct:
        np.testing.assert_array_equal(ahead[name], direct[name])


def test_other_features_splits_and_sizes(data_dir):
    grey = tfds("train", "tiny_set", data_dir, image_key="grey", label_key="")
    assert (grey.shape, grey.classes) == ((4, 6, 1), 0)
    assert set(everything(grey)[1]) == {-1}
    colour = tfds("train", "tiny_set", data_dir, image_key="grey", channels=3)
    np.testing.assert_array_equal(everything(colour)[0], np.repeat(everything(grey)[0], 3, -1))
    photo = tfds("train", "tiny_set", data_dir, image_key="photo", size=(3, 5), resize="center_crop")
    x0, label = everything(photo)
    assert photo.shape == (3, 5, 3)
    assert (x0 == x0[:, :1, :1, :1]).all()
    np.testing.assert_array_equal(x0[:, 0, 0, 0] % 5, label)
    last = tfds("heldout", "tiny_set", data_dir, train="train[:75%]", heldout="train[75%:]")
    first = tfds("train", "tiny_set", data_dir, train="train[:75%]", heldout="train[75%:]")
    whole = everything(tfds("train", "tiny_set", data_dir))[0]
    np.testing.assert_array_equal(np.concatenate([everything(first)[0], everything(last)[0]]), whole)


def test_classes_have_the_names_of_the_set(data_dir):
    for in_memory in (False, True):
        source = tfds("train", "tiny_set", data_dir, label_key="kind", in_memory=in_memory)
        assert source.class_names == ("cat", "dog", "eel") and source.classes == 3
    for numbered in ("label", ""):
        assert tfds("train", "tiny_set", data_dir, label_key=numbered).class_names == ()


def test_transparency_is_told_and_lies_over_a_colour(data_dir):
    for alpha, shade in (("white", 255), ("black", 0)):
        laid = tfds("train", "tiny_set", data_dir, image_key="clear", channels=3, alpha=alpha)
        assert (everything(laid)[0] == shade).all() and laid.note.endswith(f"over {alpha} (data.tfds.alpha)")
    kept = tfds("train", "tiny_set", data_dir, image_key="clear")
    assert kept.shape == (4, 6, 4) and not kept.note
    assert not tfds("train", "tiny_set", data_dir).note


def test_reading_and_converting_never_import_tensorflow(prepared):
    copy = prepared[0] / "copy"
    shutil.copytree(prepared[0] / "old", copy)
    python(READ, copy)
    for split in ("train", "heldout"):
        x0, label = everything(tfds(split, "tiny_set", str(copy)))
        straight, its = everything(tfds(split, "tiny_set", str(prepared[0] / "new")))
        order, expected = np.lexsort(x0.reshape(len(x0), -1).T), np.lexsort(straight.reshape(len(x0), -1).T)
        np.testing.assert_array_equal(x0[order], straight[expected])
        np.testing.assert_array_equal(label[order], its[expected])
    assert prepare("tiny_set", str(copy)).endswith("tiny_set/1.2.0/array_record")


def test_unprepared_set_raises_with_the_command(prepared, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        tfds("train", "cifar10", str(tmp_path))
    for word in ("prepare", "--config.data.tfds.dataset=cifar10", f"--config.data.tfds.data_dir={tmp_path}"):
        assert word in str(caught.value)
    with pytest.raises(FileNotFoundError, match="array_record"):
        tfds("train", "tiny_set", str(prepared[0] / "old"))
    with pytest.raises(FileNotFoundError, match=r"tiny_set:9\.9\.9"):
        tfds("train", "tiny_set:9.9.9", str(prepared[0] / "new"))
    (tmp_path / "resized" / "64x64" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ValueError, match="resized/64x64"):
        tfds("train", "resized", str(tmp_path))
    for options, message in ((("", "x"), "dataset"), (("cifar10", ""), "data_dir")):
        with pytest.raises(ValueError, match=message):
            tfds("train", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "test"}, r"tfds\.train.*tfds\.heldout"),
        ({"heldout": "train[90%:]"}, r"tfds\.train.*tfds\.heldout"),
        ({"train": "test[:5]"}, r"tfds\.train.*tfds\.heldout"),
        ({"train": "train[:80%]", "heldout": "train[75%:]"}, "overlap"),
        ({"train": "train", "heldout": "test+train[:3]"}, "overlap"),
        ({"train": "validation"}, "validation"),
        ({"train": "train[oops]"}, r"train\[oops\]"),
        ({"train": "train[:0]"}, r"train\[:0\]"),
        ({"image_key": "picture"}, r"tfds\.image_key.*tiny_set"),
        ({"label_key": "class"}, r"tfds\.label_key.*tiny_set"),
        ({"image_key": "deep"}, r"tfds\.image_key"),
        ({"image_key": "label"}, r"tfds\.image_key"),
        ({"label_key": "number"}, r"tfds\.label_key"),
        ({"image_key": "photo"}, r"tfds\.size.*tiny_set"),
        ({"resize": "crop"}, r"tfds\.resize"),
    ],
)
def test_mismatched_options_raise(data_dir, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tfds("train", "tiny_set", data_dir, **options)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_raise_when_read(data_dir):
    source = tfds("train", "tiny_set", data_dir, image_key="photo", size=(4, 6))
    with pytest.raises(ValueError, match="tiny_set"):
        everything(source)


def test_missing_and_damaged_files_raise_with_their_name(prepared, tmp_path):
    shutil.copytree(prepared[0] / "new", tmp_path / "new")
    (shard,) = (tmp_path / "new" / "tiny_set" / "1.2.0").glob("*train*")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.array_record.*tiny_set"):
        tfds("train", "tiny_set", str(tmp_path / "new"))
    shutil.copytree(prepared[0] / "old", tmp_path / "old")
    (shard,) = (tmp_path / "old" / "tiny_set" / "1.2.0").glob("*train*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=r"train\.tfrecord"):
        prepare("tiny_set", str(tmp_path / "old"))
    shard.write_bytes(b"")
    with pytest.raises(ValueError, match="tiny_set"):
        prepare("tiny_set", str(tmp_path / "old"))
    shard.write_bytes(whole)
    prepare("tiny_set", str(tmp_path / "old"))
    assert tfds("train", "tiny_set", str(tmp_path / "old")).size == 20


def test_failed_preparation_raises_with_advice(prepared, tmp_path, monkeypatch):
    said = prepared[1]
    assert said["new"].endswith("new/tiny_set/1.2.0")
    for name in ("no_such_set_at_all", "tiny_set/no_such_config"):
        assert name in said[name]
        assert "\n" not in said[name]
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match="cifar10"):
        prepare("cifar10", str(tmp_path))


@settings(DRAWN, max_examples=100)
@given(damage=ANYWHERE)
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "tiny_set-train.array_record-00000-of-00001"])
def test_damaged_set_is_read_or_raises_one_line(data_dir, tmp_path, name, damage):
    shutil.copytree(data_dir, tmp_path / "set", dirs_exist_ok=True)
    (file,) = (tmp_path / "set").rglob(name)
    file.write_bytes(damaged(file.read_bytes(), **damage))
    reads_or_refuses(lambda: tfds("train", "tiny_set", str(tmp_path / "set")), "tiny_set")


@settings(DRAWN, max_examples=100)
@given(damage=ANYWHERE)
@pytest.mark.parametrize("name", ["dataset_info.json", "tiny_set-train.tfrecord-00000-of-00001"])
def test_damaged_set_is_converted_or_raises_one_line(prepared, tmp_path, name, damage):
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    shutil.copytree(prepared[0] / "old", tmp_path / "set")
    (file,) = (tmp_path / "set").rglob(name)
    file.write_bytes(damaged(file.read_bytes(), **damage))

    def converted():
        prepare("tiny_set", str(tmp_path / "set"))
        return tfds("train", "tiny_set", str(tmp_path / "set"))

    reads_or_refuses(converted, "tiny_set")


@settings(DRAWN, max_examples=200)
@given(
    option=st.one_of(
        st.tuples(st.just("size"), st.one_of(st.integers(max_value=-1), st.floats(), TEXT)),
        st.tuples(st.just("channels"), st.one_of(st.integers(), st.floats(), TEXT)),
        st.tuples(st.sampled_from(["resize", "filter", "alpha", "train", "image_key", "label_key"]), TEXT),
        st.tuples(st.just("dataset"), TEXT),
    )
)
def test_odd_option_values_raise_with_the_name(data_dir, option):
    name, value = option
    assume(value not in (0, 1, 3))
    options = {"dataset": "tiny_set", name: value}
    assert not reads_or_refuses(lambda: tfds("train", data_dir=data_dir, **options), name, "tiny_set")
