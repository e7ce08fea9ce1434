import itertools
import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import pipeline, source
from diffusion_jax.data.folder import folder

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 6, 3), np.uint8)
MEMORY = source.from_arrays("memory", IMAGES, np.arange(30) % 7, 256, 7)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The same images as files."""
    path = tmp_path_factory.mktemp("images")
    for i, image in enumerate(IMAGES):
        (path / str(i % 7)).mkdir(exist_ok=True)
        Image.fromarray(image).save(path / str(i % 7) / f"{i:02d}.png")
    return folder("train", str(path), size=(4, 6), labels=True, heldout_fraction=0)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert type(one[name]) is np.ndarray
        np.testing.assert_array_equal(one[name], other[name])


def places(x0):
    return [int(np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0]) for image in x0]


def test_batch_matches_its_definition():
    batch = pipeline.batch(MEMORY, 0, 5, 8, False)
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "x0": ("uint8", (8, 4, 6, 3)),
        "label": ("int32", (8,)),
        "index": ("int32", (8,)),
    }
    np.testing.assert_array_equal(batch["index"], np.arange(8))
    np.testing.assert_array_equal(batch["label"], np.array(places(batch["x0"])) % 7)


@pytest.mark.parametrize("batch_size", [1, 8, 30, 64])
def test_every_epoch_is_a_different_permutation(batch_size):
    steps = -(-90 // batch_size)
    seen = np.concatenate([places(pipeline.batch(MEMORY, 3, n, batch_size, False)["x0"]) for n in range(steps)])
    epochs = seen[:90].reshape(3, 30)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(30), (3, 1)))
    for epoch in range(3):
        np.testing.assert_array_equal(epochs[epoch], np.random.default_rng((3, epoch)).permutation(30))
    assert len(np.unique(epochs, axis=0)) == 3


def test_seeds_differ_and_steps_repeat():
    one, again, other = (pipeline.batch(MEMORY, seed, 2, 8, True) for seed in (0, 0, 1))
    same(one, again)
    assert not np.array_equal(one["x0"], other["x0"])


def test_flips_are_optional_fair_and_horizontal():
    plain = [pipeline.batch(MEMORY, 0, n, 50, False)["x0"] for n in range(40)]
    flipped = [pipeline.batch(MEMORY, 0, n, 50, True)["x0"] for n in range(40)]
    before, after = np.concatenate(plain), np.concatenate(flipped)
    as_it_was = (after == before).all((1, 2, 3))
    mirrored = (after == before[:, :, ::-1]).all((1, 2, 3))
    assert (as_it_was ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.05
    per_step = mirrored.reshape(40, 50)
    assert len(np.unique(per_step, axis=0)) == 40
    np.testing.assert_array_equal(IMAGES, MEMORY.read(np.arange(30))[0])


@pytest.mark.parametrize("flip", [False, True])
def test_rows_of_processes_make_up_the_global_batch(flip):
    for step in (0, 4):
        whole = pipeline.batch(MEMORY, 0, step, 12, flip)
        parts = [pipeline.batch(MEMORY, 0, step, 12, flip, slice(4 * i, 4 * i + 4)) for i in range(3)]
        same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


@pytest.mark.parametrize("start", [0, 1, 17])
def test_batches_resume_anywhere(start):
    for n, batch in enumerate(itertools.islice(pipeline.batches(MEMORY, 0, start, 8, True), 5)):
        same(batch, pipeline.batch(MEMORY, 0, start + n, 8, True))


@pytest.mark.parametrize("workers", [0, 2])
def test_files_do_not_depend_on_workers(disk, workers):
    rows = slice(2, 7)
    order = [int(i) for i in np.argsort(np.arange(30) % 7, kind="stable")]
    memory = source.from_arrays("memory", IMAGES[order], np.arange(30)[order] % 7, 256, 7)
    batches = pipeline.batches(disk, 0, 3, 8, True, rows, workers)
    for n in range(6):
        batch = next(batches)
        same(batch, pipeline.batch(disk, 0, 3 + n, 8, True, rows))
        same(batch, pipeline.batch(memory, 0, 3 + n, 8, True, rows))
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_file_damaged_after_opening_raises_with_its_name(disk, tmp_path, workers):
    for i in range(3):
        Image.fromarray(IMAGES[i]).save(tmp_path / f"{i}.png")
    files = folder("train", str(tmp_path), size=(4, 6), heldout_fraction=0)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:100])
    batches = pipeline.batches(files, 0, 0, 3, False, workers=workers)
    with pytest.raises(ValueError, match=r"1\.png"):
        next(batches)
    assert not multiprocessing.active_children()


WORKERS = """
import os, signal, sys, time
from diffusion_jax.data import folder, pipeline

def disturb(times):  # as a terminal or a cluster does, which signal the whole group
    for _ in range(times):
        for number in pipeline.SIGNALS:
            os.killpg(0, number)
        time.sleep(0.02)

if __name__ == "__main__":
    for number in pipeline.SIGNALS:
        signal.signal(number, lambda *_: None)
    files = folder.folder("train", sys.argv[1], size=(4, 6), labels=True, heldout_fraction=0)
    ahead = pipeline.prefetch(pipeline.batches(files, 0, 0, 8, False, workers=2), lambda batch: batch)
    disturb(20)  # while they start
    for _ in range(5):
        next(ahead)
        disturb(1)
    ahead.close()
    disturb(1)
"""


def test_workers_survive_signals_to_their_group_and_leave_nothing_behind(disk, tmp_path):
    """Batches that were made ahead are not read, and no warning names them."""
    script = tmp_path / "run.py"
    script.write_text(WORKERS)
    words = [sys.executable, script, disk.name.removesuffix("/train")]
    run = subprocess.run(words, capture_output=True, text=True, start_new_session=True)
    assert run.returncode == 0 and not run.stderr


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("batch_size", [7, 10, 64])
def test_in_order_drops_nothing_and_masks_padding(kind, batch_size, disk):
    data = {"memory": MEMORY, "disk": disk}[kind]
    batches = list(pipeline.in_order(data, batch_size))
    assert len(batches) == -(-30 // batch_size)
    for batch in batches:
        assert batch["x0"].shape == (batch_size, 4, 6, 3)
        assert batch["mask"].dtype == np.float32
        np.testing.assert_array_equal(batch["index"], np.arange(batch_size))
    real = np.concatenate([batch["mask"] for batch in batches]) == 1
    assert real.sum() == 30 and real[:30].all()
    x0, label = data.read(np.arange(30))
    np.testing.assert_array_equal(np.concatenate([batch["x0"] for batch in batches])[real], x0)
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in batches])[real], label)
    half = list(pipeline.in_order(data, batch_size, slice(0, 3)))
    for whole, part in zip(batches, half, strict=True):
        same({name: value[:3] for name, value in whole.items()}, part)


def test_flip_of_vectors_raises():
    vectors = source.from_arrays("vectors", np.zeros((4, 2), np.float32), None, 0, 0)
    assert pipeline.batch(vectors, 0, 0, 3, False)["x0"].dtype == np.float32
    with pytest.raises(ValueError, match=r"flip.*vectors"):
        pipeline.batches(vectors, 0, 0, 3, True)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-1, 0, 8), "seed"), ((0, -1, 8), "step"), ((0, 0, 0), "batch_size")],
)
def test_arguments_are_checked_at_once(arguments, name):
    for function in (pipeline.batch, pipeline.batches):
        with pytest.raises(ValueError, match=name):
            function(MEMORY, *arguments, False)
    with pytest.raises(ValueError, match="batch_size"):
        pipeline.in_order(MEMORY, 0)


def test_prefetch_keeps_order_and_ends():
    assert list(pipeline.prefetch(iter(range(20)), lambda x: x + 1)) == list(range(1, 21))
    assert list(pipeline.prefetch(iter([]), str)) == []


def test_prefetch_respects_its_depth():
    made, reached = [], threading.Event()

    def put(x):
        made.append(x)
        if x == 3:
            reached.set()
        return x

    ahead = pipeline.prefetch(iter(range(100)), put, depth=3)
    assert next(ahead) == 0
    assert next(ahead) == 1
    assert reached.wait(60)
    ahead.close()
    assert made[:4] == [0, 1, 2, 3] and len(made) <= 5


def test_prefetch_raises_errors_of_its_thread():
    def numbers():
        yield 1
        raise KeyError("from the source")

    ahead = pipeline.prefetch(numbers(), str)
    assert next(ahead) == "1"
    with pytest.raises(KeyError, match="from the source"):
        next(ahead)
    with pytest.raises(ZeroDivisionError):
        list(pipeline.prefetch(iter([1, 0]), lambda x: 1 / x))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_prefetch_closes_its_iterator_when_the_consumer_stops():
    closed = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    ahead = pipeline.prefetch(endless(), str)
    assert next(ahead) == "0"
    ahead.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
