"""Placing and mapping over four devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import devices


def test_put_spreads_the_rows_over_the_devices():
    rows = devices.put({"x0": np.arange(24).reshape(8, 3)})["x0"]
    assert [shard.data.shape for shard in rows.addressable_shards] == [(2, 3)] * 4
    np.testing.assert_array_equal(rows, np.arange(24).reshape(8, 3))


def test_replicated_and_abstract_describe_the_same_placement():
    tree = devices.replicated({"a": jnp.ones(3), "n": jnp.zeros((), jnp.int32)})
    for leaf, shape in zip(jax.tree.leaves(tree), jax.tree.leaves(devices.abstract(tree)), strict=True):
        assert leaf.is_fully_replicated and leaf.sharding == shape.sharding
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)


def test_spread_keeps_the_order_and_sums_where_asked():
    rows = jnp.arange(8.0)
    np.testing.assert_array_equal(devices.spread(lambda a, x: a * x, whole=1)(2.0, rows), 2 * rows)
    total = devices.spread(lambda x: jax.lax.psum(x.sum(), devices.AXIS), whole=0, summed=True)
    assert float(total(rows)) == 28


@pytest.mark.parametrize("number", [1, 7, 8, 9, 20])
def test_tiles_have_one_shape_and_no_sample_depends_on_its_place(number):
    shapes = set()

    def sample(params, seeds):
        shapes.add(seeds.shape)
        return params * seeds[:, None]

    seeds = np.arange(5, 5 + number, dtype=np.uint32)
    made = devices.in_tiles(devices.spread(sample, whole=1), jnp.float32(3), (seeds,), tile=2)
    np.testing.assert_array_equal(made, 3.0 * seeds[:, None])
    assert shapes == {(2,)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (30, 1, "shard_map"),
            r"batch_size=30 cannot be divided by 4 devices x accumulate_steps=1; use a multiple of 4",
        ),
        ((8, 4, "shard_map"), r"use a multiple of 16"),
        ((8, 1, "pmpa"), r"parallel='pmpa' is not known; use one of shard_map, pmap"),
        ((8, 1, "shard_map", True), r"require_accelerator=True, but JAX sees only the CPU"),
    ],
)
def test_what_the_devices_cannot_do_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        devices.check(*arguments)


@pytest.fixture
def chosen():
    """`parallel.compiler_options` with nothing remembered, before and after."""
    devices.compiler_options.cache_clear()
    yield devices.compiler_options
    devices.compiler_options.cache_clear()


def test_the_compiler_is_told_only_what_it_knows(chosen, monkeypatch):
    known = devices.FASTER["cpu"]
    try:
        jax.jit(lambda: 0, compiler_options=known).lower().compile()
    except jax.errors.JaxRuntimeError:
        known = None
    assert chosen() == known
    for unknown in (
        {"xla_cpu_of_another_year": "1"},
        {**devices.FASTER["cpu"], "xla_cpu_prefer_vector_width": "wide"},
    ):
        chosen.cache_clear()
        monkeypatch.setitem(devices.FASTER, "cpu", unknown)
        assert chosen() is None
        assert devices.spread(lambda x: 2 * x, whole=0)(np.ones(4)).sum() == 8


def test_what_the_user_told_the_compiler_stands(chosen, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT")
    assert chosen() is None


def test_faster_products_and_sums_are_the_plain_ones(chosen, monkeypatch):
    """A convolution, its two gradients and a sum, with the options and without: to the rounding of float32."""
    draw = np.random.default_rng(0).standard_normal
    x, kernel = draw((8, 12, 12, 8)).astype(np.float32), draw((3, 3, 8, 16)).astype(np.float32)

    def work(kernel, x):
        def loss(kernel, x):
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.sum(y**2, axis=(1, 2, 3))

        losses, gradients = loss(kernel, x), jax.grad(lambda *args: loss(*args).sum(), (0, 1))(kernel, x)
        return losses, jnp.broadcast_to(gradients[0].ravel(), (len(x), gradients[0].size)), gradients[1]

    fast = devices.spread(work, whole=1)(kernel, x)
    monkeypatch.setitem(devices.FASTER, "cpu", None)
    chosen.cache_clear()
    for a, b in zip(fast, devices.spread(work, whole=1)(kernel, x), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())
