"""Where work meets devices: the only file, beside the train step, that knows of meshes, axes and mapping.

A step is a function of one device's share of the batch; `parallelise` maps it over all devices with gradients averaged
inside. State is one plain tree of global arrays, the same on every device or ("fsdp") a part on each, which Orbax saves
and restores as it is.
"""

import contextlib
import functools
import glob
import importlib.util
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

log = logging.getLogger(__name__)

AXIS = "batch"
MODES = ("shard_map", "pmap", "fsdp")
LEAST_SHARDED = 1024
"""Elements of an array below which "fsdp" keeps it whole on every device."""
FASTER = {
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
}
"""Options of the compiler by backend: on a CPU, products and sums by YNNPACK, gradients of kernels among them."""


# Processes.


def initialise(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_devices: int = 0,
) -> None:
    """Join the other processes of this run, if there are any: as told, or as SLURM or a TPU's metadata say.

    To be called before anything else of JAX is. local_devices: the number of devices that this process must see; 0 asks
    nothing. Raises ValueError where the three are incomplete, where processes or devices are not as many as they ought
    to be, and ConnectionError where the others cannot be reached.
    """
    told = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in told.items() if value is None]
    if len(missing) in (1, 2):
        raise ValueError(
            f"--{missing[0]} is missing; it goes with {', '.join(f'--{n}' for n in told if n not in missing)}"
        )
    if missing:
        arguments = from_slurm(os.environ) or ({} if _on_tpu() else None)
    else:
        assert num_processes is not None and process_id is not None
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"--process_id={process_id} must be 0 to {num_processes - 1}: --num_processes={num_processes}"
            )
        arguments = told | {"cluster_detection_method": "deactivate"}
    if arguments is not None and not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(**arguments)
        except RuntimeError as error:
            raise ConnectionError(
                f"the processes of this run cannot join ({error}); is process 0 up at "
                f"{arguments.get('coordinator_address', 'the first node')}?"
            ) from error
    asked = (arguments or {}).get("num_processes")
    if asked is not None and jax.process_count() != asked:
        raise ValueError(f"{asked} processes were asked for, but JAX sees {jax.process_count()}")
    if local_devices and jax.local_device_count() != local_devices:
        raise ValueError(
            f"--local_devices={local_devices}, but process {jax.process_index()} sees {jax.local_device_count()} of "
            f"{jax.device_count()} devices. Where every task of a SLURM job sees one device, the job has one task per "
            "GPU, or its tasks are bound to single GPUs (--gpus-per-task, --gpu-bind): ask for --ntasks-per-node=1, or "
            "say --local_devices=1"
        )


def from_slurm(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` needs in a step of a SLURM job with several tasks; None elsewhere.

    The GPUs of a node are divided among its tasks, whether a task is bound to its own, or all tasks see all of them.
    (JAX by itself gives each task one GPU, also to the only task of a node.)
    """
    if "SLURM_STEP_ID" not in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return None
    tasks = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))[
        int(environment.get("SLURM_NODEID", "0"))
    ]
    visible = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES", ""))
    gpus = len(visible.split(",")) if visible else int(environment.get("SLURM_GPUS_ON_NODE", "0"))
    share = max(1, gpus // tasks)
    first = int(environment["SLURM_LOCALID"]) * share if gpus >= tasks else 0
    return {
        "num_processes": int(environment["SLURM_STEP_NUM_TASKS"]),
        "process_id": int(environment["SLURM_PROCID"]),
        "local_device_ids": list(range(first, first + share)) if gpus else [],
    }


def _tasks_per_node(text: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    parts = [part.rstrip(")").split("(x") for part in text.split(",")]
    return [int(part[0]) for part in parts for _ in range(int(part[1]) if len(part) > 1 else 1)]


def _on_tpu() -> bool:
    """Whether this is a TPU machine, of which there may be others."""
    return importlib.util.find_spec("libtpu") is not None and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Go on when every process of the run has come here; what: a name for the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def rows(batch_size: int) -> slice:
    """Which rows of the global batch this process reads. Raises ValueError where they cannot be divided."""
    each, rest = divmod(batch_size, jax.process_count())
    if rest:
        raise ValueError(f"batch_size={batch_size} cannot be divided by {jax.process_count()} processes")
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[int], bool]]:
    """Within it SIGTERM ends nothing; `preempted(step)` says whether it came, on all processes after the same step.

    With several processes JAX's preemption service listens, and carries the notice of one to all of them.
    """
    if jax.process_count() > 1:
        yield lambda step: bool(multihost_utils.reached_preemption_sync_point(step))
        return
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only that one may listen
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield lambda step: came.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


# Devices.


def mesh() -> Mesh:
    """All devices of all processes, along the batch."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check(batch_size: int, accumulate_steps: int, mode: str, require_accelerator: bool = False) -> None:
    """Raise ValueError unless the devices can do what is asked."""
    if mode not in MODES:
        raise ValueError(f"parallel={mode!r} is not known; use one of {', '.join(MODES)}")
    if mode == "pmap" and jax.process_count() > 1:
        raise ValueError("parallel='pmap' works within one process only; use 'shard_map' with several")
    shares = jax.device_count() * accumulate_steps
    if batch_size % shares:
        raise ValueError(
            f"batch_size={batch_size} cannot be divided by {jax.device_count()} devices x accumulate_steps="
            f"{accumulate_steps}; use a multiple of {shares}"
        )
    if require_accelerator and jax.default_backend() == "cpu":
        raise ValueError("require_accelerator=True, but JAX sees only the CPU; install the extra cuda12, cuda13 or tpu")


def parallelise(train_step: Callable[..., Any], mode: str = "shard_map", state: Any = None) -> Callable[..., Any]:
    """Map `train_step(state, batch, key, axis)` over all devices: `step(state, batch, key) -> (state, metrics)`.

    batch: global rows, as `put` returns them. The old state is donated. "pmap" works within one process (with several
    its outputs are local to the host, which Orbax will not save); `check` says so. "fsdp" leaves it to the compiler to
    divide the global function over the devices, among which the state (shapes of which it needs) is spread.
    """
    if mode == "fsdp":
        spread_out = shardings(state, mode)
        return jax.jit(
            functools.partial(train_step, axis=None),
            in_shardings=(spread_out, NamedSharding(mesh(), P(AXIS)), NamedSharding(mesh(), P())),
            out_shardings=(spread_out, NamedSharding(mesh(), P())),
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


def spread(function: Callable[..., Any], whole: int, summed: bool = False) -> Callable[..., Any]:
    """Map a function over all devices: its first `whole` arguments go to every device as they are, the rest in shares.

    Outputs are put together in order; or, if `summed`, the function has made them equal on all devices already. Not to
    be called within another jit, since it has options of the compiler.
    """

    def mapped(*args: Any) -> Any:
        specs = (P(),) * whole + (P(AXIS),) * (len(args) - whole)
        out = P() if summed else P(AXIS)
        return jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=out, check_vma=False)(*args)

    return jax.jit(mapped, compiler_options=compiler_options())


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """`FASTER` for functions mapped here (but by pmap, which takes none), not where XLA_FLAGS or this jaxlib say no."""
    options = FASTER.get(jax.default_backend())
    if options is None or any(name in os.environ.get("XLA_FLAGS", "") for name in options):
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # the option is not known, or not its value
        return None
    return options


def in_tiles(
    sample: Callable[..., jax.Array],
    params: Any,
    each: tuple[np.ndarray, ...],
    tile: int,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """`sample(params, *each)`, spread over the devices, for arrays `each` of any number of rows: [N,*D] on the host.

    Every device always works on `tile` rows (the last call is padded), so that one program serves all and no sample
    depends on how many are asked for, on its place among them or on the number of devices. report: told how many are
    done after each call.
    """
    per_call = tile * jax.device_count()
    made = []
    for first in range(0, len(each[0]), per_call):
        asked = [rows[first : first + per_call] for rows in each]
        padded = [np.resize(rows, (per_call, *rows.shape[1:])) for rows in asked]
        made.append(fetch(sample(params, *padded))[: len(asked[0])])
        report(first + len(asked[0]))
    return np.concatenate(made)


def replicated(tree: Any) -> Any:
    """`tree` placed whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh(), P()))


def shardings(tree: Any, mode: str = "shard_map") -> Any:
    """Where each array of a training state lives: on every device; with "fsdp" a part on each, where it can be divided.

    An array is divided along the longest of its dimensions that the number of devices divides. tree: of arrays or of
    shapes.
    """
    devices, over = jax.device_count(), mesh()

    def sharding(leaf: Any) -> NamedSharding:
        lengths = [(length, axis) for axis, length in enumerate(leaf.shape) if length % devices == 0]
        if mode != "fsdp" or devices == 1 or not lengths or math.prod(leaf.shape) < LEAST_SHARDED:
            return NamedSharding(over, P())
        return NamedSharding(over, P(*[None] * max(lengths)[1], AXIS))

    return jax.tree.map(sharding, tree)


def abstract(tree: Any, mode: str = "shard_map") -> Any:
    """Shapes, dtypes and today's placement of a training state (arrays, or shapes), as restoring wants them."""
    place = shardings(tree, mode)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, place)


def device_bytes(tree: Any, mode: str = "shard_map") -> int:
    """Bytes of a training state on one device."""
    parts = jax.tree.map(
        lambda x, at: math.prod(at.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings(tree, mode)
    )
    return sum(jax.tree.leaves(parts))


def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch, placed on its devices as part of the global batch."""
    sharding = NamedSharding(mesh(), P(AXIS))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """All rows of a batch, which every process has, placed on the devices of all."""
    sharding = NamedSharding(mesh(), P(AXIS))
    return {name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__) for name, rows in batch.items()}


def fetch(tree: Any) -> Any:
    """Arrays that are spread over the devices, put together on the host of every process."""

    def whole(x: jax.Array) -> np.ndarray:
        here = x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x if here else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, tree)
