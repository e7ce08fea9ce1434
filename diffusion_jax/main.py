"""The command line: python -m diffusion_jax.main COMMAND --flags.

    train     --config=FILE --workdir=DIR [--config.KEY=VALUE …]    train; the same command again resumes
    sample    --workdir=DIR --num_samples=N --seed=S --out=FILE.npz  draw samples, and a picture of them
    restore   --workdir=DIR --task=inpaint --out=FILE.npz            denoise, inpaint, … held-out examples
    evaluate  --workdir=DIR [--likelihood=vlb,multi,ode,K] [--metrics=fid,pr]  every figure that is asked for
    encode    --workdir=DIR --num_samples=N --out=FILE.npz           held-out data as noise, and back
    stats     --config=FILE --features=NAME --out=FILE.npz           what a feature network says of real data
    frontier  --workdir=DIR [--samplers=A,B:GRID] [--steps=5,10]     quality against network calls, as table and picture
    show      --workdir=DIR                                          progressive pictures, interpolation
    describe  --config=FILE [--compile]                              size, FLOPs and memory, without training
    benchmark --config=FILE [--batch_size=N]                 how fast it trains and samples here, measured
    prepare   --config=FILE                                          make a TensorFlow Datasets set readable
    sweep     --sweep=FILE[:VARIANT] --workdir=DIR                   every cell of a grid; again: what is left of it
    compare   DIR  or  RUN RUN …                                     the figures of a sweep, or of runs, as one table
    report    --workdir=DIR                                          one HTML page of a run and its evaluations
    import    --from=diffusers|ddpm_tf1 --path=PATH --workdir=DIR    make a workdir of somebody else's weights
    export    --to=diffusers --workdir=DIR --path=DIR                write weights for somebody else
    import-inception  --path=FILE                                    the public weights of the FID's network

Logs and progress go to standard error. The last line on standard output is one JSON object with the results. What is
wrong with the input is one line on standard error, and the exit code is 2; --debug shows where it came from. COMMAND
--help tells the flags of a command. A training that SIGTERM ended is saved, its exit code is 75, and the same command
goes on with it; the exit code of a training that diverged is 3. train, sample and evaluate also run as several
processes: under SLURM, on TPU pods, or with --coordinator_address, --num_processes and --process_id.
"""

import contextlib
import importlib.util
import inspect
import json
import logging
import os
import pathlib
import sys
import threading
import zipfile
from collections.abc import Iterator

from diffusion_jax import arguments, commands
from diffusion_jax.arguments import one_line

log = logging.getLogger("diffusion_jax")
"""Modules of this project log below it; everything else stays quiet unless it warns."""

IN_SEVERAL_PROCESSES = ("train", "sample", "evaluate")
PREEMPTED = 75
"""EX_TEMPFAIL of sysexits.h: try again."""
COMPILED = pathlib.Path("~/.cache/diffusion_jax/compiled")
"""Where JAX keeps what it has compiled, for later commands, unless JAX_COMPILATION_CACHE_DIR names another place."""


def run(argv: list[str]) -> int:
    """Carry out [program, command, flags…]; returns the exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    if len(argv) < 2 or argv[1] in ("--help", "-h", "help"):
        print(__doc__)
        return 0 if len(argv) > 1 else 2
    if argv[1] not in commands.COMMANDS:
        print(f"error: {argv[1]!r} is not a command; use one of {', '.join(commands.COMMANDS)}", file=sys.stderr)
        return 2
    if {"--help", "-h"} & set(argv[2:]):
        print(f"{argv[1]}: {inspect.getdoc(commands.COMMANDS[argv[1]])}\n\n{arguments.usage(argv[1])}")
        return 0
    try:
        first = join(argv)
        with (
            quiet_threads("--debug" not in argv),
            unverified() if arguments.unverified(argv) else contextlib.nullcontext(),
        ):
            results = commands.COMMANDS[argv[1]](arguments.parse(argv))
    except (ValueError, OSError, FloatingPointError, zipfile.BadZipFile) as error:
        if "--debug" in argv:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    from diffusion_jax import files

    if first:
        print(json.dumps(files.json_ready(results), allow_nan=False))
    return PREEMPTED if results.get("preempted") else 0


@contextlib.contextmanager
def quiet_threads(quiet: bool) -> Iterator[None]:
    """Within it no thread prints what it failed of: what fails in Orbax's is raised in ours as well, and told once."""
    hook, futures = threading.excepthook, logging.getLogger("concurrent.futures")
    level = futures.level
    if quiet:
        threading.excepthook = lambda args: None
        futures.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        threading.excepthook = hook
        futures.setLevel(level)


@contextlib.contextmanager
def unverified() -> Iterator[None]:
    """Within it checkpoints are read without a look at their checksums."""
    from diffusion_jax.training import checksums

    token = checksums.VERIFY.set(False)
    try:
        yield
    finally:
        checksums.VERIFY.reset(token)


def join(argv: list[str]) -> bool:
    """Meet the other processes of this run, if it has any; whether this is the first of them."""
    told = arguments.processes(argv)
    if not any(told.values()) and "SLURM_STEP_ID" not in os.environ and importlib.util.find_spec("libtpu") is None:
        return True
    from diffusion_jax import devices

    devices.initialise(**told)
    import jax

    if jax.process_count() > 1 and argv[1] not in IN_SEVERAL_PROCESSES:
        raise ValueError(f"{argv[1]} runs in one process; those that run in several: {', '.join(IN_SEVERAL_PROCESSES)}")
    if not devices.is_first():
        log.setLevel(logging.WARNING)
    return devices.is_first()


def keep_compiled() -> None:
    """Let JAX keep what it compiles in `COMPILED`, unless it was told another place or this one cannot be made."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # of a home that cannot be written, and of none
        directory = COMPILED.expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)


if __name__ == "__main__":
    if sys.argv[1:2] != ["benchmark"]:  # which measures compiling too
        keep_compiled()
    sys.exit(run(sys.argv))
