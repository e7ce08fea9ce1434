import numpy as np
import pytest

from diffusion_jax.data.embedded import RING_MEANS, RING_STD, TOYS, digits, toy2d


def everything(source):
    return source.read(np.arange(source.size))


def test_digits_are_the_scans_in_a_fixed_order():
    from sklearn.datasets import load_digits

    scans, target = load_digits(return_X_y=True)
    train, heldout = digits("train"), digits("heldout")
    for split, size in ((train, 1500), (heldout, 297)):
        assert (split.shape, split.levels, split.classes, split.size) == ((8, 8, 1), 17, 10, size)
    golden = {"train": [360, 1773, 1482, 600, 850], "heldout": [1555, 1022, 1512, 955, 1397]}
    for split in (train, heldout):
        first = golden[split.name.split("/")[1]]
        x0, label = split.read(np.arange(5))
        assert x0.dtype == np.uint8 and label.dtype == np.int32
        np.testing.assert_array_equal(x0.reshape(5, 64), scans[first])
        np.testing.assert_array_equal(label, target[first])
    x0, _ = everything(train)
    assert (x0.min(), x0.max()) == (0, 16)
    together = np.concatenate([everything(split)[0].reshape(-1, 64) for split in (train, heldout)])
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(scans, axis=0))


@pytest.mark.parametrize("kind", TOYS)
def test_toys_are_deterministic_with_unit_variance(kind):
    train, again, heldout = toy2d("train", kind), toy2d("train", kind), toy2d("heldout", kind)
    x0, label = everything(train)
    assert (train.shape, train.levels, x0.dtype) == ((2,), 0, np.float32)
    assert (label.min(), label.max()) == ((0, train.classes - 1) if train.classes else (-1, -1))
    np.testing.assert_array_equal(x0, everything(again)[0])
    assert not np.isin(everything(heldout)[0], x0).all(axis=1).any()
    np.testing.assert_allclose(x0.mean(axis=0), 0, atol=0.15)
    np.testing.assert_allclose(x0.var(axis=0), 1, atol=0.1)
    assert not np.array_equal(x0, everything(toy2d("train", kind, seed=1))[0])


def test_mixture_density():
    x0, label = everything(toy2d("train", "mixture", size=40_000))
    inside = (x0 - RING_MEANS[label]) / RING_STD
    n = len(label)  # five standard errors each
    np.testing.assert_allclose(inside.mean(axis=0), 0, atol=5 * n**-0.5)
    np.testing.assert_allclose(np.cov(inside.T), np.eye(2), atol=5 * (2 / n) ** 0.5)
    np.testing.assert_allclose(np.bincount(label) / n, 1 / 8, atol=5 * (7 / 64 / n) ** 0.5)


def test_checkerboard_fills_dark_squares_only():
    x0, label = everything(toy2d("train", "checkerboard"))
    column, row = np.floor(x0 / np.sqrt(3 / 4)).astype(int).T + 2
    assert ((column + row) % 2 == 0).all()
    assert len(set(zip(column, row, label, strict=True))) == 8


def test_errors_list_allowed_values():
    with pytest.raises(ValueError, match=r"toy2d\.kind"):
        toy2d("train", "circle")
    with pytest.raises(ValueError, match=r"toy2d\.size"):
        toy2d("train", size=0)
    for factory in (digits, toy2d):
        with pytest.raises(ValueError, match="split"):
            factory("validation")


def test_the_swiss_roll_has_unit_variance_at_any_noise():
    for noise in (0.0, 0.3, 2.0):
        x0, _ = everything(toy2d("train", "swissroll", size=100_000, noise=noise))
        np.testing.assert_allclose(x0.mean(axis=0), 0, atol=0.015)
        assert np.square(x0).mean() == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match=r"toy2d\.noise"):
        toy2d("train", "swissroll", noise=-1)
