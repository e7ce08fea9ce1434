import numpy as np
import pytest

from diffusion_jax.data import source


def test_source_of_arrays_reads_any_places():
    x0, label = np.arange(12, dtype=np.uint8).reshape(6, 2), np.arange(6)
    rows = np.array([5, 1, 3])
    part = source.from_arrays("part", x0, label, 256, 6, rows)
    assert (part.shape, part.size, part.on_disk) == ((2,), 3, False)
    got, its = part.read(np.array([2, 0, 0]))
    np.testing.assert_array_equal(got, x0[[3, 5, 5]])
    np.testing.assert_array_equal(its, [3, 5, 5])
    assert its.dtype == np.int32
    got[:] = 0
    np.testing.assert_array_equal(part.read(np.array([0]))[0], x0[[5]])
    unlabelled = source.from_arrays("whole", x0, None, 256, 0)
    np.testing.assert_array_equal(unlabelled.read(np.arange(6))[1], np.full(6, -1))


def test_source_of_items_can_be_loaded():
    def item(place):
        return np.full((2, 2, 1), place, np.uint8), place % 2

    items = source.from_items("items", (2, 2, 1), 256, 2, 5, item)
    loaded = source.load(items)
    assert items.on_disk and not loaded.on_disk
    assert loaded[:5] == items[:5]
    places = np.array([4, 0, 3])
    for mine, its in zip(loaded.read(places), items.read(places), strict=True):
        assert mine.dtype == its.dtype
        np.testing.assert_array_equal(mine, its)


def test_a_subset_of_sorted_examples_has_all_classes():
    whole = source.from_arrays("whole", np.arange(100)[:, None].astype(np.float32), np.arange(100) // 50, 0, 2)
    few, more = source.subset(whole, 10), source.subset(whole, 60)
    x, label = more.read(np.arange(60))
    np.testing.assert_array_equal(label, x[:, 0] // 50)
    np.testing.assert_array_equal(few.read(np.arange(10))[0], x[:10])
    assert len(set(x[:, 0])) == 60 and set(label[:10]) == {0, 1}
    assert source.subset(whole, 100) is whole


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.99])
def test_fraction_is_held_out(fraction):
    train, heldout = (source.split_rows("x", 200, split, fraction) for split in source.SPLITS)
    assert len(heldout) == max(1, round(200 * fraction))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, heldout])), np.arange(200))


def test_invalid_splits_raise():
    assert len(source.split_rows("x", 3, "train", 0)) == 3
    with pytest.raises(ValueError, match="heldout_fraction"):
        source.split_rows("x", 3, "heldout", 0)
    with pytest.raises(ValueError, match=r"\bx\b"):
        source.split_rows("x", 1, "train", 0.1)
    with pytest.raises(ValueError, match="heldout_fraction"):
        source.split_rows("x", 3, "train", 1)
    with pytest.raises(ValueError, match="split"):
        source.check_split("test")
