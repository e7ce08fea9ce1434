"""NCSN++ and DDPM++: as many parameters as published, the numbers of EDM's network, and its layers one by one."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import ncsnpp
from diffusion_jax.networks.ncsnpp import NCSNpp
from diffusion_jax.objective import conditionings, prediction, targets
from diffusion_jax.process.base import Level

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_diffusers_unet  # noqa: E402
import make_edm_unet  # noqa: E402

NCSNPP = {"embedding": "fourier", "taps": (1, 3, 3, 1), "progressive_input": True}
EDM = {"multipliers": (2, 2, 2), "augment_dims": 9}
SMALL = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "num_classes": 4, "augment_dims": 9}
QUICK = {"xla_backend_optimization_level": 0}


def shapes_of(net, shape, **inputs):
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x, time, None, None, **inputs)["params"]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 61_804_419),
        (NCSNPP, 62_758_787),
        ({"blocks": 8}, 106_632_579),
        ({"blocks": 8, "remat": True} | NCSNPP, 107_586_947),
        (EDM, 55_733_891),
        (EDM | {"num_classes": 10}, 55_735_299),
        (EDM | NCSNPP, 56_397_827),
        (EDM | NCSNPP | {"num_classes": 10}, 56_400_643),
    ],
)
def test_parameters_are_as_many_as_published(options, count):
    leaves = jax.tree.leaves(shapes_of(NCSNpp(3, **options), (32, 32, 3)))
    assert sum(leaf.size for leaf in leaves) == count


def name_in_edm(path, levels=2, blocks=1, size=8):
    """The name in EDM's network of a parameter of ours, by its path; q, k and v are interleaved in one, qkv."""
    module, *inner, kind = (key.key for key in path)
    kind = "bias" if kind == "bias" else "weight"
    if module == "temb":
        return f"map_{inner[0].replace('dense', 'layer')}.{kind}"
    if module == "conv_in":
        return f"enc.{size}x{size}_conv.{kind}"
    if module in ("norm_out", "conv_out"):
        return f"dec.{size}x{size}_aux_{module[:4]}.{kind}"
    side, *words = module.split("_")
    level, place = (levels - 1, words) if side == "mid" else (int(words[0]), words[1:])
    if side == "mid":
        place = f"in{int(words[1]) - 1}"
    elif place[0] == "input":
        return f"enc.{size >> level}x{size >> level}_aux_residual.{kind}"
    elif place[0] == "resample":
        place = side
        level -= side == "up"  # named by the level that the step reaches
    else:
        place = f"block{place[1] if len(place) > 1 else blocks}"
    layer = {
        "norm1": "norm0", "conv1": "conv0", "temb_proj": "affine", "norm2": "norm1", "conv2": "conv1",
        "shortcut": "skip", "norm": "norm2", "q": "qkv", "k": "qkv", "v": "qkv", "proj_out": "proj",
    }[inner[0]]  # fmt: skip
    return f"{'enc' if side == 'down' else 'dec'}.{size >> level}x{size >> level}_{place}.{layer}.{kind}"


def drawn_by_edm(shapes):
    """Our parameters of these shapes, from what `draw` gives for the names and shapes of EDM's network."""
    torch_shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name, shape = name_in_edm(path), leaf.shape
        if name.endswith("weight") and leaf.ndim > 1:
            *window, before, after = shape
            square = (1, 1) if leaf.ndim == 2 and name.startswith(("enc", "dec")) and "affine" not in name else ()
            shape = (after, before, *(window or square))
        if ".qkv." in name:
            shape = (3 * shape[0], *shape[1:])
        torch_shapes[name] = shape
    weights = make_diffusers_unet.draw(torch_shapes)

    def take(path, leaf):
        value = weights[name_in_edm(path)]
        if ".qkv." in name_in_edm(path):
            value = value["qkv".index(path[-2].key) :: 3]
        return jnp.asarray(np.moveaxis(value, (0, 1), (-1, -2)).reshape(leaf.shape) if value.ndim > 1 else value)

    return jax.tree_util.tree_map_with_path(take, shapes)


@pytest.mark.parametrize(("name", "options"), [("ddpmpp", {}), ("ncsnpp", NCSNPP)])
def test_equals_the_network_of_edm(name, options, x64):
    net = NCSNpp(3, **SMALL, **options, dtype="float64")
    x, sigma, label, augment = make_edm_unet.inputs()
    shapes = shapes_of(net, (8, 8, 3), augment=jnp.zeros((1, 9)))
    params = drawn_by_edm(shapes)
    run = jax.jit(net.apply, compiler_options=QUICK)
    got = run({"params": params}, x, np.log(sigma) / 4, label, None, augment)
    with np.load(GOLDEN / "edm_unet.npz") as golden:
        np.testing.assert_allclose(got, golden[f"output_{name}"], atol=1e-11)
        if name == "ddpmpp":  # and the denoiser around it, of x_t = x0 + sigma eps
            d = make_edm_unet.SIGMA_DATA
            predict = prediction.make_denoiser(
                lambda *args: run(*args, augment),
                lambda params: None,
                targets.edm(d),
                conditionings.log_sigma_conditioning(),
                input_scale=conditionings.unit_variance(d),
            )
            at = Level(jnp.zeros(2), jnp.zeros(2), jnp.log(sigma))
            x0 = predict({"net": params}, jnp.asarray(x), at, label, None).x0
            np.testing.assert_allclose(x0, golden["precondition_x0"], atol=1e-11)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 5, 5, 2, 1)])
def test_resampling_filters_by_its_taps(taps):
    """Against sums over the taps written out; doubling is halving transposed, times 2 per axis."""
    random = np.random.RandomState(0)
    x, y = random.normal(size=(1, 4, 6, 2)), random.normal(size=(1, 8, 12, 2))
    weight, reach = np.outer(taps, taps) / sum(taps) ** 2, len(taps) // 2 - 1
    padded = np.pad(y, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape, axis=(1, 2))[:, ::2, ::2]
    halved = ncsnpp.halve(jnp.asarray(y, jnp.float32), taps)
    np.testing.assert_allclose(halved, np.einsum("bhwcij,ij->bhwc", windows, weight), atol=1e-6)
    doubled = ncsnpp.double(jnp.asarray(x, jnp.float32), taps)
    assert float(np.sum(np.asarray(doubled) * y)) == pytest.approx(4 * float(np.sum(x * halved)), rel=1e-4)
    if taps == (1, 1):
        np.testing.assert_allclose(doubled, np.kron(x, np.ones((1, 2, 2, 1))), rtol=1e-6)


def test_labels_are_one_hot_and_none_is_zero():
    told = ncsnpp.Conditioning(4, num_classes=3, augment_dims=2, fourier_scale=0.0, dtype=jnp.float32)
    time, augment = jnp.ones(4), jnp.array([[0.0, 0], [0, 0], [0, 0], [1, 2]])
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.RandomState(leaf.size).normal(size=leaf.shape), jnp.float32),
        jax.eval_shape(told.init, jax.random.key(0), time, None, None)["params"],
    )

    def run(label, augment=None):
        return np.asarray(told.apply({"params": params}, time, label, augment))

    without = run(None)
    np.testing.assert_array_equal(run(jnp.array([-1, -5, -1, -1])), without)
    np.testing.assert_array_equal(run(None, jnp.zeros((4, 2))), without)
    got = run(jnp.array([0, 1, 3, 2]))
    assert np.all(np.isnan(got[2])) and np.all(np.isfinite(got[[0, 1, 3]]))
    assert len({tuple(row) for row in np.round(got[[0, 1, 3]], 3)}) == 3
    np.testing.assert_array_equal(run(None, augment)[:3], without[:3])
    assert np.abs(run(None, augment)[3] - without[3]).max() > 0.01


def test_fourier_features_of_time_are_a_fixed_draw():
    value = jnp.array([-1.5, 0.0, 1.1])
    got = ncsnpp.fourier_embedding(value, 512, 16.0)
    drawn = ncsnpp.frequencies(256, 16.0)
    assert abs(drawn.std() - 16) < 2 and abs(drawn.mean()) < 4
    angles = 2 * np.pi * np.asarray(value)[:, None] * drawn
    np.testing.assert_allclose(got, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=2e-4)
    np.testing.assert_array_equal(got, ncsnpp.fourier_embedding(value, 512, 16.0))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"embedding": "sines"}, "embedding"),
        ({"taps": (1, 2, 1)}, "taps"),
        ({"taps": (1, 2)}, "taps"),
        ({"fourier_scale": 0.0}, "fourier_scale"),
        ({"augment_dims": -1}, "augment_dims"),
        ({"attention": (14,)}, "attention"),
        ({"multipliers": (1,) * 7}, "height"),
        ({"blocks": 0}, "blocks"),
    ],
)
def test_bad_options_and_shapes_are_errors_before_compilation(options, named):
    with pytest.raises(ValueError, match=rf"ncsnpp.*\b{named}\b"):
        shapes_of(NCSNpp(3, **options), (32, 32, 3))
    with pytest.raises(ValueError, match=r"ncsnpp.*\baugment\b"):
        shapes_of(NCSNpp(3, augment_dims=9), (32, 32, 3), augment=jnp.zeros((1, 8)))
