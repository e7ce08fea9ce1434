"""NCSN and NCSNv2: the numbers of the public code, and its layers one by one."""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import ncsn
from diffusion_jax.networks.ncsn import NCSN, NCSNv2

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_ncsn  # noqa: E402


def shapes_of(net, shape):
    x, time = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x, time)["params"]


def name_in_peer(path, stages=4):
    """The name in the public code of the layer or norm that a path of ours leads to."""
    module, *inner = [key.key for key in path][:-1]
    if not inner:
        return {"conv_in": "begin_conv", "norm_out": "normalizer", "conv_out": "end_conv"}[module]
    kind, i, *block = module.split("_")
    if kind == "stage":
        name = f"res{int(i) + 1}.{block[1]}.{inner[0].replace('norm', 'normalize')}"
        pooled = i == "1" and block[1] == "0" and inner[0] in ("conv2", "shortcut")
        return name + ".conv" * pooled
    name = inner[0]
    for ours, theirs in {
        r"adapt_(.)_(.)_(\w+)_(.)": r"adapt_convs.\1 \2_\4_\3",
        r"output_(.)_(\w+)_(.)": r"output_convs \1_\3_\2",
        r"fuse_(\w+)_(.)": r"msf.\1s.\2",
        r"pool_(\w+)_(.)": r"crp.\1s.\2",
    }.items():
        name = re.sub(f"^{ours}$", theirs, name)
    if " " in name:  # they count blocks and convolutions from 1
        where, (block, _, conv, *rest) = name.split(" ")
        name = f"{where}.{int(block) + 1}_{int(conv) + 1}{''.join(rest)}"
    return f"refine{stages - int(i)}.{name}"


def drawn_by_peer(shapes):
    """Our parameters of these shapes, from what `weights` gives for the names and shapes of the public code."""
    scales = ("gamma", "alpha", "beta")
    theirs = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name, kind = name_in_peer(path), path[-1].key
        if kind in scales and leaf.ndim == 2:
            theirs[f"{name}.embed.weight"] = (leaf.shape[0], 3 * leaf.shape[1])
        elif kind == "kernel":
            before, after = leaf.shape[-2:]
            theirs[f"{name}.weight"] = (after, before, *(leaf.shape[:-2] or (1, 1)))
        else:
            theirs[f"{name}.{kind}"] = leaf.shape
    weights = make_ncsn.weights(theirs)

    def take(path, leaf):
        name, kind = name_in_peer(path), path[-1].key
        if kind in scales and leaf.ndim == 2:
            return jnp.asarray(np.split(weights[f"{name}.embed.weight"], 3, axis=1)[scales.index(kind)])
        if kind == "kernel":
            return jnp.asarray(weights[f"{name}.weight"].transpose(2, 3, 1, 0).reshape(leaf.shape))
        return jnp.asarray(weights[f"{name}.{kind}"])

    return jax.tree_util.tree_map_with_path(take, shapes)


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2"])
def test_equals_the_public_code(name, x64):
    """Images are in [0, 1] there, in [-1, 1] here."""
    options = {"channels": make_ncsn.CHANNELS, "dtype": "float64"}
    net = NCSN(3, make_ncsn.LEVELS, **options) if name == "ncsn" else NCSNv2(3, **options)
    x, level = make_ncsn.inputs()
    params = drawn_by_peer(shapes_of(net, (8, 8, 3)))
    # Layer by layer, which compiles in half the time. The levels are rows of their embedding.
    got = net.apply({"params": params}, 2 * x - 1, jnp.asarray(level, float))
    if name == "ncsnv2":
        got /= np.geomspace(*make_ncsn.SIGMAS[::-1], make_ncsn.LEVELS)[level][:, None, None, None]
    with np.load(GOLDEN / "ncsn.npz") as golden:
        np.testing.assert_allclose(got, golden[name], rtol=1e-11, atol=1e-11 * golden[name].std())


def test_rows_of_a_norm_are_those_of_the_level_and_between_levels_lie_between():
    rows = jnp.array([[0.0, 5.0], [2.0, 1.0], [3.0, 1.0]])
    got = ncsn.shares(jnp.array([0, 1, 2, 0.25, 1.5, -1, 7]), 3) @ rows
    np.testing.assert_allclose(got, [[0, 5], [2, 1], [3, 1], [0.5, 4], [2.5, 1], [0, 5], [3, 1]])


def test_stretching_keeps_corners_and_lines():
    x = np.random.RandomState(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    got = np.asarray(ncsn.stretched(jnp.asarray(x), (5, 10)))
    np.testing.assert_allclose(got[:, ::2, ::3], x, atol=3e-6)
    np.testing.assert_allclose(got[:, 1], (got[:, 0] + got[:, 2]) / 2, atol=3e-6)
    np.testing.assert_allclose(np.diff(got[:, :, :4], 2, axis=2), 0, atol=3e-6)
    np.testing.assert_array_equal(ncsn.stretched(jnp.asarray(x), (3, 4)), x)


@pytest.mark.parametrize(
    ("options", "shape", "named"),
    [
        ({"dilations": (1, 1)}, (32, 32, 3), "dilations"),
        ({"multipliers": (1, 2, 0, 2)}, (32, 32, 3), "multipliers"),
        ({"multipliers": (), "dilations": ()}, (32, 32, 3), "multipliers"),
        ({"num_steps": 0}, (32, 32, 3), "num_steps"),
        ({"channels": 3}, (32, 32, 3), "channels"),
        ({}, (8, 9, 3), "width"),
    ],
)
def test_bad_options_and_shapes_are_errors_before_compilation(options, shape, named):
    with pytest.raises(ValueError, match=rf"ncsn.*\b{named}\b"):
        shapes_of(NCSN(**{"out_channels": 3, "num_steps": 4} | options), shape)
