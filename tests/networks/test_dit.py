"""The diffusion transformer: as many parameters as published, the numbers of the public code, and its contract."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import devices
from diffusion_jax.networks import dit
from diffusion_jax.networks.dit import DiT

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_diffusers_unet  # noqa: E402
import make_dit  # noqa: E402

QUICK = {"xla_backend_optimization_level": 0}
SMALL = DiT(1, patch=2, channels=8, depth=1, heads=2, num_classes=2)


def shapes_of(net, shape):
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x, time, None, None)["params"]


@pytest.mark.parametrize(
    ("channels", "depth", "heads", "count"),
    [(384, 12, 6, 32_865_056), (768, 12, 12, 130_315_808), (1024, 24, 16, 457_840_672), (1152, 28, 16, 674_834_720)],
)
def test_parameters_are_as_many_as_published(channels, depth, heads, count):
    """Trained ones: the public code counts its fixed positions among the parameters."""
    net = DiT(8, channels=channels, depth=depth, heads=heads, num_classes=1000)
    shapes = shapes_of(net, (32, 32, 4))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    if depth == 12:  # with fsdp each of the four devices of the tests has a quarter
        assert devices.device_bytes(shapes, "fsdp") < 1.01 * count


def name_in_code(path):
    """The name in the public code of a parameter of ours, by its path."""
    module, *inner, kind = (key.key for key in path)
    if module == "temb":
        place = {"dense0": "t_embedder.mlp.0", "dense1": "t_embedder.mlp.2", "label": "y_embedder.embedding_table"}
        place = place[inner[0]]
    elif module.startswith("block"):
        layer = {"modulation": "adaLN_modulation.1", "qkv": "attn.qkv", "proj_out": "attn.proj"}
        layer |= {"dense1": "mlp.fc1", "dense2": "mlp.fc2"}
        place = f"blocks.{module.removeprefix('block_')}.{layer[inner[0]]}"
    else:
        place = {"patches_in": "x_embedder.proj", "modulation": "final_layer.adaLN_modulation.1"}
        place = place.get(module, "final_layer.linear")
    return f"{place}.{'bias' if kind == 'bias' else 'weight'}"


def test_equals_the_public_code(x64):
    x, time, label = make_dit.inputs()
    size = make_dit.CONFIG
    net = DiT(
        4, size["patch_size"], size["hidden_size"], size["depth"], size["num_heads"], make_dit.CLASSES, dtype="float64"
    )
    shapes = shapes_of(net, x.shape[1:])

    def torch_shape(path, leaf):
        if path[0].key == "patches_in" and leaf.ndim == 2:  # a convolution (channels, 2, patch, patch)
            return (leaf.shape[1], x.shape[-1], size["patch_size"], size["patch_size"])
        return leaf.shape if path[-1].key == "embedding" else leaf.shape[::-1]

    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    drawn = make_diffusers_unet.draw({name_in_code(path): torch_shape(path, leaf) for path, leaf in leaves})

    def take(path, leaf):
        value = drawn[name_in_code(path)]
        if value.ndim == 4:
            value = value.transpose(0, 2, 3, 1).reshape(len(value), -1)
        return value if path[-1].key == "embedding" else value.T

    params = jax.tree_util.tree_map_with_path(take, shapes)
    run = jax.jit(net.apply, compiler_options=QUICK)
    with np.load(GOLDEN / "dit.npz") as golden:
        expected = golden["output"]
    np.testing.assert_allclose(run({"params": params}, x, time, np.where(label < 5, label, -1)), expected, atol=1e-12)
    np.testing.assert_allclose(run({"params": params}, x, time)[2], expected[2], atol=1e-12)


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches_are_cut_and_joined_row_by_row(patch):
    x = np.arange(2 * 6 * 12 * 3).reshape(2, 6, 12, 3)
    cut = dit.patchify(jnp.asarray(x), patch)
    np.testing.assert_array_equal(cut[1, 0, 1].reshape(patch, patch, 3), x[1, :patch, patch : 2 * patch])
    np.testing.assert_array_equal(dit.unpatchify(cut, patch), x)


def test_output_starts_at_zero_and_then_depends_on_all_inputs():
    """With images that are not square, as rows and columns must not be swapped."""
    x = jax.random.normal(jax.random.key(0), (4, 4, 6, 1))
    x, time, label = x.at[1:].set(x[0]), jnp.array([0.0, 1, 1, 1]), jnp.array([-1, -1, 0, 1])

    @functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def run(net, variables):
        def loss(variables):
            y = net.apply(variables, x, time, label)
            return jnp.mean(y**2), y

        return jax.value_and_grad(loss, has_aux=True)(variables)

    variables = jax.jit(SMALL.init, compiler_options=QUICK)(jax.random.key(1), x, time, label, None)
    assert not np.any(run(SMALL, variables)[0][1])
    random = np.random.RandomState(0)
    variables = jax.tree.map(
        lambda leaf: (random.normal(size=leaf.shape) / len(leaf) ** 0.5).astype(np.float32), variables
    )
    (_, y), gradient = run(SMALL, variables)
    assert min(np.max(np.abs(y[i] - y[j])) for i in range(4) for j in range(i)) > 1e-3
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    (_, again), gradient_again = run(SMALL.clone(remat=True), variables)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), (y, gradient), (again, gradient_again))
    half = jax.jit(SMALL.clone(dtype="bfloat16").apply, compiler_options=QUICK)(variables, x, time, label)
    assert half.dtype == jnp.float32 and 1e-4 < np.sqrt(np.mean((half - y) ** 2) / np.mean(y**2)) < 0.05


def test_positions_are_those_of_their_row_and_column():
    got = dit.positions(3, 5, 8)
    for row, column in np.ndindex(3, 5):
        of = [[np.sin(place), np.sin(place / 100), np.cos(place), np.cos(place / 100)] for place in (column, row)]
        np.testing.assert_allclose(got[row, column], np.concatenate(of), atol=1e-15)


@pytest.mark.parametrize(
    ("options", "shape", "named"),
    [
        ({"patch": 3}, (30, 32, 1), "width"),
        ({"patch": 3}, (32, 30, 1), "height"),
        ({"patch": 0}, (32, 32, 1), "patch"),
        ({"channels": 6, "heads": 1}, (32, 32, 1), "channels"),
        ({"heads": 5}, (32, 32, 1), "heads"),
        ({"depth": 0}, (32, 32, 1), "depth"),
        ({"dtype": "float16"}, (32, 32, 1), "dtype"),
        ({}, (32,), "mlp"),
    ],
)
def test_bad_options_and_shapes_are_errors_before_compilation(options, shape, named):
    with pytest.raises(ValueError, match=rf"dit.*\b{named}\b"):
        shapes_of(DiT(1, **options), shape)
