"""NCSN++ and DDPM++: as many parameters as published, the numbers of EDM's network, and its layers one by one."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import ncsnpp
from diffusion_jax.networks.ncsnpp import NCSNpp

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
    if module in ("label", "augment", "dense0", "dense1"):
        return f"map_{module.replace('dense', 'layer')}.{kind}"
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
