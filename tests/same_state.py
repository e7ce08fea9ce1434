"""Compare the newest states of two runs, bit for bit.

    python -m tests.same_state RUN OTHER

Exit code 1 unless step, number of arrays, types and bits are equal.
"""

import contextlib
import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from diffusion_jax.training import checkpoints


def last_state(workdir):
    """Step and every array of the newest state, as NumPy arrays: of however many processes and devices."""
    step = checkpoints.steps(workdir)[-1]
    directory = pathlib.Path(workdir, "checkpoints", str(step), "state").resolve()
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(directory).tree)
        return step, jax.tree.leaves(reader.restore(directory, args=ocp.args.PyTreeRestore(restore_args=to_numpy)))


def same(one, other):
    """Return True if two states of `last_state` are equal."""
    (step, arrays), (other_step, others) = one, other
    pairs = zip(arrays, others, strict=False)
    bits = all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
    return step == other_step and len(arrays) == len(others) and bits


if __name__ == "__main__":
    states = [last_state(workdir) for workdir in sys.argv[1:3]]
    equal = same(*states)
    step, arrays = states[0]
    answer = "the same bits" if equal else "NOT the same bits"
    print(f"{sum(a.size for a in arrays):,} numbers of {len(arrays)} arrays at step {step} are {answer}")
    sys.exit(not equal)
