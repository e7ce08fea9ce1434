"""Kill a training at random moments, start it again each time, and compare its end with that of an undisturbed one.

    python -m tests.kills --kills=50

The last line is one JSON object: the kills, how many of them left an unfinished checkpoint behind, the starts that
failed, and whether every leaf of the last state is equal, bit for bit. Exit code 1 unless it is.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import jax

from diffusion_jax import main
from diffusion_jax.training import checkpoints
from tests.same_state import last_state, same

ROOT = pathlib.Path(__file__).parent.parent

CONFIG = [
    *("--config=configs/toy2d.py:tiny", "--config.network.mlp.dropout=0.2", "--config.report.tensorboard=False"),
    *("--config.eval.every=0", "--config.report.samples_every=0", "--config.report.every=1"),
]

ENDLESS = 10**9
"""Steps of a training that is killed."""


def started(workdir, steps, every):
    """Train in a process of its own, forked with everything imported and nothing of JAX begun; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        flags = [f"--workdir={workdir}", f"--config.train_steps={steps}", f"--config.checkpoint.every={every}"]
        code = 1
        try:
            code = main.run(["main", "train", *CONFIG, *flags])
        finally:
            os._exit(code)
    return child


def ended(child):
    """The exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(kills, every, seed):
    """The figures of this file's head. A training has no end until it was killed often enough."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = f"{folder}/whole", f"{folder}/killed"
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        assert ended(started(f"{folder}/compiles", every, every)) == 0
        begun = time.monotonic()
        child = started(f"{folder}/timed", 3 * every, every)
        while not checkpoints.steps(f"{folder}/timed"):
            time.sleep(0.05)
        first = time.monotonic() - begun
        assert ended(child) == 0
        each = (time.monotonic() - begun - first) / 2
        unfinished = failed = done = 0
        for _ in range(kills):
            child = started(killed, ENDLESS, every)
            time.sleep(moments.uniform(0.2 * first, first + 2 * each))
            os.kill(child, signal.SIGKILL)
            was_killed = ended(child) == -signal.SIGKILL
            done, failed = done + was_killed, failed + (not was_killed)
            kept = pathlib.Path(killed, "checkpoints")
            unfinished += any("tmp" in path.name for path in kept.iterdir()) if kept.is_dir() else 0
        steps = max(checkpoints.steps(killed), default=0) + every
        failed += ended(started(killed, steps, every)) != 0
        assert ended(started(whole, steps, every)) == 0
        ends = last_state(whole), last_state(killed)
        equal = same(*ends) and ends[0][0] == steps
    return {"kills": done, "unfinished_checkpoints": unfinished, "failed_starts": failed, "equal": equal}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.chdir(ROOT)
    found = run(args.kills, args.every, args.seed)
    print(json.dumps(found))
    sys.exit(not found["equal"])
