"""Where work meets devices: the only file, beside the train step, that knows of meshes, axes and mapping.

A step is a function of one device's share of the batch; `parallelise` maps it over all devices with gradients averaged
inside. State is one plain tree, the same on every device, which Orbax saves and restores as it is.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "batch"
MODES = ("shard_map", "pmap")


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


def parallelise(train_step: Callable[..., Any], mode: str = "shard_map") -> Callable[..., Any]:
    """Map `train_step(state, batch, key, axis)` over all devices: `step(state, batch, key) -> (state, metrics)`.

    batch: global rows, as `put` returns them. The old state is donated. "pmap" works within one process (with several
    its outputs are local to the host, which Orbax will not save); `check` says so.
    """
    step = functools.partial(train_step, axis=AXIS)
    if mode == "shard_map":
        mapped = jax.shard_map(
            step,
            mesh=mesh(),
            in_specs=(P(), P(AXIS), P()),
            out_specs=(P(), P()),
            check_vma=False,  # with it, gradients of replicated parameters come out already summed over devices
        )
        return jax.jit(mapped, donate_argnums=0)
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0)
    devices = jax.device_count()
    return lambda state, batch, key: mapped(
        state, jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch), key
    )


def spread(function: Callable[..., Any], whole: int, summed: bool = False) -> Callable[..., Any]:
    """Map a function over all devices: its first `whole` arguments go to every device as they are, the rest in shares.

    Outputs are put together in order; or, if `summed`, the function has made them equal on all devices already.
    """

    def mapped(*args: Any) -> Any:
        specs = (P(),) * whole + (P(AXIS),) * (len(args) - whole)
        out = P() if summed else P(AXIS)
        return jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=out, check_vma=False)(*args)

    return jax.jit(mapped)


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
        made.append(np.asarray(sample(params, *padded))[: len(asked[0])])
        report(first + len(asked[0]))
    return np.concatenate(made)


def replicated(tree: Any) -> Any:
    """`tree` placed whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh(), P()))


def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A process's rows of a batch, placed on its devices as part of the global batch."""
    sharding = NamedSharding(mesh(), P(AXIS))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and today's placement of a replicated tree (of arrays or of shapes), as restoring wants them."""
    sharding = NamedSharding(mesh(), P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
