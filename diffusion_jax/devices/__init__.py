"""Device parallelism: meshes, sharding and functions mapped over devices.

Only this package and the training step use meshes, axes and mapping.

processes   joining the processes of a run, preemption
sharding    placing arrays on devices, mapping functions over devices
tiles       mapping a function over any number of examples
"""

from diffusion_jax.devices.processes import (
    Notice,
    from_slurm,
    initialise,
    is_first,
    local_rows,
    preemption,
    wait_for_all,
)
from diffusion_jax.devices.sharding import (
    AXIS,
    FASTER,
    MODES,
    WAITING,
    abstract,
    check,
    compiler_options,
    device_bytes,
    fetch,
    map_over_devices,
    mesh,
    parallelise,
    put_local_rows,
    put_rows,
    replicate,
    shardings,
    threads,
)
from diffusion_jax.devices.tiles import TiledMap, rebatch
