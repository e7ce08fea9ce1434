"""Placement and mapping on four devices, tiles, and compiler options."""

import itertools
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import devices
from diffusion_jax.devices import processes


def test_local_rows_are_divided_over_the_devices():
    rows = devices.put_local_rows({"x0": np.arange(24).reshape(8, 3)})["x0"]
    assert [shard.data.shape for shard in rows.addressable_shards] == [(2, 3)] * 4
    np.testing.assert_array_equal(rows, np.arange(24).reshape(8, 3))


def test_replicate_and_abstract_have_the_same_shardings():
    tree = devices.replicate({"a": jnp.ones(3), "n": jnp.zeros((), jnp.int32)})
    for leaf, shape in zip(jax.tree.leaves(tree), jax.tree.leaves(devices.abstract(tree)), strict=True):
        assert leaf.is_fully_replicated and leaf.sharding == shape.sharding
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)


def test_mapped_rows_keep_their_order_and_reductions_are_equal_on_all_devices():
    rows = jnp.arange(8.0)
    np.testing.assert_array_equal(devices.map_over_devices(lambda a, x: a * x, replicated=1)(2.0, rows), 2 * rows)
    total = devices.map_over_devices(lambda x: jax.lax.psum(x.sum(), devices.AXIS), replicated=0, reduced=True)
    assert float(total(rows)) == 28


@pytest.mark.parametrize("number", [1, 7, 8, 9, 20])
def test_tiles_have_one_shape_and_results_do_not_depend_on_their_number(number):
    shapes = set()

    def sample(params, seeds):
        shapes.add(seeds.shape)
        return {"x": params * seeds[:, None], "none": None}

    seeds = np.arange(5, 5 + number, dtype=np.uint32)
    results = devices.TiledMap(sample, tile=2)(jnp.float32(3), seeds)
    np.testing.assert_array_equal(results["x"], 3.0 * seeds[:, None])
    assert shapes == {(2,)} and results["none"] is None


def test_tiles_of_a_stream_of_batches_of_any_size():
    tiled = devices.TiledMap(lambda a, b, rows: a * rows["x"] + b, tile=2, replicated=2)
    batches = [({"x": np.arange(*ends, dtype=np.float32)},) for ends in ((0, 3), (3, 4), (4, 21), (21, 21), (21, 22))]
    parts = list(tiled.stream((2.0, 1.0), batches, 22))
    assert [len(part) for part in parts] == [8, 8, 6]
    np.testing.assert_array_equal(np.concatenate(parts), 2 * np.arange(22) + 1)


@pytest.mark.parametrize("sizes", [(), (5,), (4, 4), (1, 2, 3, 9), (12, 1)])
def test_rebatched_rows_are_the_same_rows(sizes):
    ends = np.cumsum([0, *sizes])
    batches = [(np.arange(a, b), {"y": -np.arange(a, b)}) for a, b in itertools.pairwise(ends)]
    made = list(devices.rebatch(batches, 4))
    assert all(len(x) == 4 for x, _ in made[:-1])
    for x, rest in made:
        np.testing.assert_array_equal(rest["y"], -x)
    np.testing.assert_array_equal(np.concatenate([[], *(x for x, _ in made)]), np.arange(sum(sizes)))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((30, 1, "shard_map"), "batch_size=30"),
        ((8, 4, "shard_map"), "accumulate_steps=4"),
        ((8, 1, "pmpa"), "parallel='pmpa'"),
        ((8, 1, "shard_map", True), "require_accelerator=True"),
    ],
)
def test_batches_that_do_not_suit_the_devices_are_refused(arguments, key):
    with pytest.raises(ValueError, match=key):
        devices.check(*arguments)


@pytest.fixture
def chosen():
    """`devices.compiler_options` with an empty cache, before and after."""
    devices.compiler_options.cache_clear()
    yield devices.compiler_options
    devices.compiler_options.cache_clear()


def test_several_devices_of_a_cpu_have_no_options(chosen):
    """There programs by YNNPACK race."""
    assert jax.local_device_count() > 1 and chosen() is None


def test_unknown_compiler_options_are_not_used(chosen, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
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
        assert devices.map_over_devices(lambda x: 2 * x, replicated=0)(np.ones(4)).sum() == 8


def test_options_in_xla_flags_are_kept(chosen, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT")
    assert chosen() is None


def test_faster_products_and_sums_equal_the_plain_ones(chosen, monkeypatch):
    """A convolution, its two gradients and a sum, with and without the options, to the rounding of float32."""
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    draw = np.random.default_rng(0).standard_normal
    x, kernel = draw((8, 12, 12, 8)).astype(np.float32), draw((3, 3, 8, 16)).astype(np.float32)

    def work(kernel, x):
        def loss(kernel, x):
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.sum(y**2, axis=(1, 2, 3))

        losses, gradients = loss(kernel, x), jax.grad(lambda *args: loss(*args).sum(), (0, 1))(kernel, x)
        return losses, jnp.broadcast_to(gradients[0].ravel(), (len(x), gradients[0].size)), gradients[1]

    fast = jax.jit(work, compiler_options=chosen())(kernel, x)  # on one device
    for a, b in zip(fast, jax.jit(work)(kernel, x), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())


# Joining other processes.


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":1234", "localhost:many", "localhost:99999", ""])
def test_an_address_needs_a_host_and_a_port(address):
    with pytest.raises(ValueError, match="HOST:PORT"):
        processes.check_address(address)


def test_an_unknown_host_is_refused():
    processes.check_address("localhost:1234")
    processes.check_address("[::1]:1234")
    with pytest.raises(ConnectionError, match=r"no\.such\.host\.invalid"):
        processes.check_address("no.such.host.invalid:1234")


def test_slurm_tasks_that_srun_did_not_start_are_refused():
    environment = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    assert processes.from_slurm(environment) is not None
    for name in ("SLURM_PROCID", "SLURM_LOCALID"):
        with pytest.raises(ValueError, match=name):
            processes.from_slurm({key: value for key, value in environment.items() if key != name})


@pytest.mark.parametrize(
    "wrong",
    [
        {"SLURM_STEP_NUM_TASKS": "x"},
        {"SLURM_STEP_NUM_TASKS": ""},
        {"SLURM_PROCID": "-1"},
        {"SLURM_LOCALID": "(null)"},
        {"SLURM_NODEID": "first"},
        {"SLURM_STEP_TASKS_PER_NODE": "2(x"},
        {"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_NODEID": "1"},
        {"SLURM_GPUS_ON_NODE": "(null)"},
    ],
)
def test_variables_of_slurm_that_do_not_fit_are_named(wrong):
    environment = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        processes.from_slurm(environment | wrong)


@pytest.mark.parametrize("wrong", [{"num_processes": 0}, {"wait_seconds": 0}])
def test_numbers_of_processes_and_seconds_are_positive(wrong):
    given = {"coordinator_address": "localhost:1234", "num_processes": 2, "process_id": 0} | wrong
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
        processes.initialise(**given)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_wait_for_other_processes_is_logged_and_ends(monkeypatch, caplog, capsys):
    ended = threading.Event()

    def end(code):
        ended.set()
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", end)
    with caplog.at_level("INFO"), processes._waiting({"num_processes": 2, "coordinator_address": "h:1"}, 0.3, 0.1):
        assert ended.wait(10)
    assert len(caplog.records) == 3 and all("h:1" in record.message for record in caplog.records)
    assert capsys.readouterr().err.startswith("error: ")
    ended.clear()
    with processes._waiting({}, 0.2, 0.1):
        pass
    assert not ended.wait(0.4)
