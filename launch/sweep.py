"""Run the cells of `main sweep` in parallel: as a SLURM array job, as a queue on this machine, or as commands.

    python launch/sweep.py slurm --sweep=FILE[:VARIANT] --workdir=DIR [sbatch options]    a task for each run
    python launch/sweep.py queue --sweep=FILE[:VARIANT] --workdir=DIR --jobs=4            four at a time
    python launch/sweep.py print --sweep=FILE[:VARIANT] --workdir=DIR                     a command for each run
    python launch/sweep.py run CELL/seedK --workdir=DIR                                   such a command

Finished runs are skipped, as by `main sweep`; the directories are the same, and `main compare DIR` tabulates them.
Where there are NVIDIA GPUs, each run of a queue has its own. A run that receives SIGTERM is saved and exits with 75:
launch/slurm.sbatch puts it back into the queue, and elsewhere the same command resumes it. The exit code of queue is 1
if a run failed.
"""

import argparse
import concurrent.futures
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
from typing import Any

from diffusion_jax import files
from diffusion_jax.analysis import sweeps
from diffusion_jax.cli import evaluate
from diffusion_jax.cli.common import one_line

HERE = pathlib.Path(__file__).parent
DONE = (sweeps.FINISHED, sweeps.DIVERGED)
PREEMPTED = 75
"""Exit code of a command that was ended by SIGTERM."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("slurm", "queue", "print", "run"))
    parser.add_argument("name", nargs="?", help="run: the run, CELL/seedK (default: by SLURM_ARRAY_TASK_ID)")
    parser.add_argument("--sweep", help="the file that lists the grid, and :VARIANT of it")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--jobs", default=1, type=int, help="queue: runs at a time")
    args, rest = parser.parse_known_intermixed_args()
    if rest and args.way != "slurm":
        parser.error(f"{rest[0]} is not known; {args.way} takes no further options")
    if args.way == "run":
        return run(pathlib.Path(args.workdir).expanduser(), args.name)
    if not args.sweep or args.jobs < 1:
        parser.error("--sweep is missing" if not args.sweep else f"--jobs={args.jobs} must be at least 1")
    directory, runs = sweeps.begin(args.sweep, args.workdir, evaluate.check_words)
    left = [(i, run.name) for i, run in enumerate(runs) if status(directory, run.name) not in DONE]
    print(f"{len(left)} of {len(runs)} runs are left", file=sys.stderr)
    if args.way == "slurm":
        return submit(directory, left, rest) if left else 0
    if args.way == "queue":
        return work_off(directory, [name for _, name in left], args.jobs)
    print(*(shlex.join(command(directory, name)) for _, name in left), sep="\n")
    return 0


def status(directory: pathlib.Path, name: str) -> str:
    """Return the status of a run, or "" if it has not ended."""
    return sweeps.result_of(directory, name).get("status", "")


def command(directory: pathlib.Path, name: str) -> list[str]:
    """Return the command of one run."""
    return [sys.executable, str(HERE / "sweep.py"), "run", name, f"--workdir={directory}"]


def run(directory: pathlib.Path, name: str | None) -> int:
    """Train and evaluate one run of a sweep, or resume it. SIGTERM is passed to its commands."""
    flags: dict[str, Any] = sweeps.stored(directory)["runs"]
    name = name or list(flags)[int(os.environ.get("SLURM_ARRAY_TASK_ID", "-1"))]
    if name not in flags:
        raise ValueError(f"{name} is not a run of {directory / sweeps.GRID}; the first of them is {next(iter(flags))}")
    told: list[bool] = []

    def end(*_: Any) -> None:
        if not told and os.getpgrp() == os.getpid():  # the processes of this group are those that it runs
            told.append(True)
            os.killpg(os.getpgrp(), signal.SIGTERM)
        told.append(True)

    signal.signal(signal.SIGTERM, end)
    cell = sweeps.CellRun(name, tuple(flags[name]["train"]), tuple(flags[name]["evaluate"]))
    place = directory / name
    result = sweeps.carry_out(cell, place, sweeps.environment(directory), sweeps.result_of(directory, name))
    if told and result["status"] == sweeps.FAILED:
        return PREEMPTED
    files.save_json(place / sweeps.RESULT, result)
    print(f"{name}: {result['status']} {result['reason']}".rstrip())
    return int(result["status"] == sweeps.FAILED)


def submit(directory: pathlib.Path, left: list[tuple[int, str]], options: list[str]) -> int:
    """Submit an array job of the unfinished runs, by their numbers in the grid."""
    array = f"--array={','.join(str(i) for i, _ in left)}"
    output = f"--output={directory}/slurm-%A_%a.out"
    script = [str(HERE / "slurm.sbatch"), str(HERE / "sweep.py"), "run", f"--workdir={directory}"]
    env = {"PYTHON": sys.executable} | dict(os.environ)
    return subprocess.run(["sbatch", array, output, *options, *script], env=env).returncode


def work_off(directory: pathlib.Path, names: list[str], jobs: int) -> int:
    """Run all, `jobs` at a time, each on its own GPU if there are GPUs; SIGTERM and Ctrl-C save and end all."""
    gpus: queue.Queue[str] = queue.Queue()
    for gpu in (visible_gpus() or [""] * jobs)[:jobs]:
        gpus.put(gpu)
    running: set[subprocess.Popen[bytes]] = set()
    told: list[bool] = []

    def end(*_: Any) -> None:
        told.append(True)
        for process in list(running):
            os.killpg(process.pid, signal.SIGTERM)  # the commands below it as well

    def one(name: str) -> int:
        if told:
            return PREEMPTED
        gpu = gpus.get()
        env = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        process = subprocess.Popen(command(directory, name), env=env, start_new_session=True)
        running.add(process)
        if told:  # in between
            os.killpg(process.pid, signal.SIGTERM)
        code = process.wait()
        running.discard(process)
        gpus.put(gpu)
        return code

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with concurrent.futures.ThreadPoolExecutor(gpus.qsize()) as pool:
        codes = list(pool.map(one, names))
    return PREEMPTED if PREEMPTED in codes else int(any(codes))


def visible_gpus() -> list[str]:
    """Return the visible NVIDIA GPUs."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
