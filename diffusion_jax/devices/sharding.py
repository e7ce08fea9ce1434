"""Device parallelism: meshes, placement of arrays, mapping of functions over devices, compiler options.

A training step is a function of one device's share of the batch; `parallelise` maps it over all devices, with gradients
averaged inside. The state is one tree of global arrays, replicated on every device or, in mode "fsdp", sharded over
them.
"""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

WAITING = "wait for compiled code"
"""Name of the threads that wait for compiled code; the interpreter waits for them when it ends."""
AXIS = "batch"
MODES = ("shard_map", "pmap", "fsdp")
LEAST_SHARDED = 1024
"""Elements of an array below which "fsdp" keeps it whole on every device."""
FASTER = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
}
"""XLA compiler options by backend. On a CPU, YNNPACK computes matrix products and sums.

Not with several CPU devices in a process: there programs that contain it race (seen in jaxlib 0.10.2: in a bound of 100
steps on two devices the first two of 32 rows were wrong, differently in each run).
"""


def mesh() -> Mesh:
    """Return the mesh of all devices, with AXIS as its only axis. It spans the devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check(batch_size: int, accumulate_steps: int, mode: str, require_accelerator: bool = False) -> None:
    """Raise ValueError unless the devices suit batch size, mode and accelerator."""
    if mode not in MODES:
        raise ValueError(f"parallel={mode!r}: unknown mode. Use one of {', '.join(MODES)}")
    if mode == "pmap" and jax.process_count() > 1:
        raise ValueError("parallel='pmap': works within one process only. Use 'shard_map'")
    shares = jax.device_count() * accumulate_steps
    if batch_size % shares:
        raise ValueError(
            f"batch_size={batch_size}: not divisible by {jax.device_count()} devices x accumulate_steps="
            f"{accumulate_steps}. Use a multiple of {shares}"
        )
    if require_accelerator and jax.default_backend() == "cpu":
        raise ValueError("require_accelerator=True: JAX sees only the CPU. Install the extra cuda12, cuda13 or tpu")


def parallelise(train_step: Callable[..., Any], mode: str = "shard_map", state: Any = None) -> Callable[..., Any]:
    """Map `train_step(state, batch, key, axis)` over all devices: `step(state, batch, key) -> (state, metrics)`.

    batch: global rows, as `put_local_rows` returns them. The old state is donated. "pmap" works within one process:
    with several, its outputs are local to the host, and Orbax does not save such arrays. With "fsdp" the compiler
    divides the global function over the devices, and the state, whose shapes are `state`, is divided among them.
    """
    if mode == "fsdp":
        divided = shardings(state, mode)
        return jax.jit(
            functools.partial(train_step, axis=None),
            in_shardings=(divided, NamedSharding(mesh(), P(AXIS)), NamedSharding(mesh(), P())),
            out_shardings=(divided, NamedSharding(mesh(), P())),
            donate_argnums=0,
            compiler_options=compiler_options(),
        )
    step = functools.partial(train_step, axis=AXIS)
    if mode == "shard_map":
        mapped = jax.shard_map(
            step,
            mesh=mesh(),
            in_specs=(P(), P(AXIS), P()),
            out_specs=(P(), P()),
            check_vma=False,  # with it, gradients of replicated parameters come out already summed over devices
        )
        return jax.jit(mapped, donate_argnums=0, compiler_options=compiler_options())
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0)
    devices = jax.device_count()
    return lambda state, batch, key: mapped(
        state, jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch), key
    )


def map_over_devices(
    function: Callable[..., Any], replicated: int, reduced: bool = False, same_bits: bool = False
) -> Callable[..., Any]:
    """Compile `function` mapped over all devices, with an equal share of the rows each.

    replicated: number of leading arguments that every device gets whole. reduced: the function reduces over AXIS, so
    that its outputs are equal on all devices; otherwise their rows are joined in order. It has compiler options, unless
    `same_bits` is set, so it cannot be called within another jit.
    """

    def mapped(*args: Any) -> Any:
        in_specs = (P(),) * replicated + (P(AXIS),) * (len(args) - replicated)
        out_specs = P() if reduced else P(AXIS)
        return jax.shard_map(function, mesh=mesh(), in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)

    return jax.jit(mapped, compiler_options=None if same_bits else compiler_options())


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """XLA compiler options for the functions of this module: `FASTER` or None.

    They are None where this process has several CPU devices, XLA_FLAGS sets one of the options, or this jaxlib rejects
    them. (pmap takes no options.)
    """
    options = FASTER.get(jax.default_backend())
    if jax.default_backend() == "cpu" and jax.local_device_count() > 1:
        return None
    if options is None or any(name in os.environ.get("XLA_FLAGS", "") for name in options):
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # the option or its value is unknown
        return None
    return options


def threads() -> int:
    """Return the number of threads of XLA's CPU devices, 0 on other devices.

    Products of matrices add up their terms in an order that depends on it.
    """
    if jax.default_backend() != "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = (os.environ.get(name, "") for name in ("PJRT_NPROC", "NPROC"))
    return max(next((int(text) for text in chosen if text.isdecimal()), cores), jax.local_device_count())


def replicate(tree: Any) -> Any:
    """Place a tree of arrays whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh(), P()))


def shardings(tree: Any, mode: str = "shard_map") -> Any:
    """Return the sharding of each array of a training state (arrays or shapes).

    Arrays are replicated. With mode "fsdp", an array of LEAST_SHARDED elements or more is divided along the longest of
    its dimensions that the number of devices divides, if there is one.
    """
    devices, over = jax.device_count(), mesh()

    def sharding(leaf: Any) -> NamedSharding:
        lengths = [(length, axis) for axis, length in enumerate(leaf.shape) if length % devices == 0]
        if mode != "fsdp" or devices == 1 or not lengths or math.prod(leaf.shape) < LEAST_SHARDED:
            return NamedSharding(over, P())
        return NamedSharding(over, P(*[None] * max(lengths)[1], AXIS))

    return jax.tree.map(sharding, tree)


def abstract(tree: Any, mode: str = "shard_map") -> Any:
    """Return shapes, dtypes and shardings of a training state, as Orbax restores it."""
    place = shardings(tree, mode)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, place)


def device_bytes(tree: Any, mode: str = "shard_map") -> int:
    """Return the bytes of a training state on one device."""
    parts = jax.tree.map(
        lambda x, at: math.prod(at.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings(tree, mode)
    )
    return sum(jax.tree.leaves(parts))


def put_local_rows(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Place this process's rows as its part of the global batch."""
    sharding = NamedSharding(mesh(), P(AXIS))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def put_rows(batch: Any) -> Any:
    """Place a tree of arrays [B, …] in equal shares on all devices. The arrays are whole in every process."""
    sharding = NamedSharding(mesh(), P(AXIS))
    return jax.tree.map(lambda rows: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__), batch)


def fetch(tree: Any) -> Any:
    """Return a tree of arrays divided over devices as whole arrays on every host.

    Handlers of signals run during the wait for compiled code, which a thread does.
    """
    finished = threading.Event()

    def wait() -> None:
        with contextlib.suppress(Exception):  # raised again below
            jax.block_until_ready(tree)
        finished.set()

    threading.Thread(target=wait, name=WAITING).start()
    finished.wait()

    def whole(x: jax.Array) -> np.ndarray:
        here = x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x if here else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, tree)
