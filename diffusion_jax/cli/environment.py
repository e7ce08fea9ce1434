"""Process setup for commands: logging, multiple processes, devices, compilation cache, library threads."""

import contextlib
import importlib.util
import logging
import os
import pathlib
import re
import sys
import threading
from collections.abc import Iterator

from diffusion_jax import progress
from diffusion_jax.cli.parser import Flags, Parser

log = logging.getLogger("diffusion_jax")
"""The parent of all loggers of this package."""

THREAD_LOGGERS = ("concurrent.futures", "absl", "asyncio")
"""Loggers by which Orbax and its executors report an error of a thread."""

COMPILED = pathlib.Path("~/.cache/diffusion_jax/compiled")
"""Compiled programs of earlier commands, unless JAX_COMPILATION_CACHE_DIR names another folder."""

PATIENCE = 10.0
"""Seconds between the failure of a process and its forced end. Processes that all failed end together before."""

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""The kernel's setting of huge pages; with `madvise` each program decides."""


def add_flags(parser: Parser) -> None:
    """Declare the flags that every command takes."""
    parser.flag("debug", bool, False, "Print the traceback of an error.")
    parser.flag("coordinator_address", str, None, "Address of process 0, HOST:PORT, for a run of several processes.")
    parser.flag("num_processes", int, None, "Number of processes of the run.")
    parser.flag("process_id", int, None, "Number of this process, from 0.")
    parser.flag("local_devices", int, 0, "Number of devices this process must see (0: no check)")
    parser.flag("wait_seconds", int, 300, "Time to wait for the other processes")


def join(args: Flags, command: str, several: bool) -> bool:
    """Join the other processes of this run, if it has any.

    Returns True in the first process. several: the command may run as several processes. Raises ValueError or OSError.
    """
    given = {
        "coordinator_address": args.coordinator_address,
        "num_processes": args.num_processes,
        "process_id": args.process_id,
        "local_devices": args.local_devices,
    }
    if not any(given.values()) and "SLURM_STEP_ID" not in os.environ and importlib.util.find_spec("libtpu") is None:
        return True
    from diffusion_jax import devices

    devices.initialise(**given, wait_seconds=args.wait_seconds)
    import jax

    if jax.process_count() > 1 and not several:
        raise ValueError(f"{command}: runs as one process (got {jax.process_count()} processes)")
    if not devices.is_first():
        log.setLevel(logging.WARNING)
    return devices.is_first()


def check_platform() -> None:
    """Raise ValueError if JAX_PLATFORMS names a platform that JAX cannot use here."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if not platforms:
        return
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that some platform is left
        reason = f" ({error})" if str(error) else ""
        raise ValueError(
            f"JAX_PLATFORMS={platforms}: JAX cannot use it here{reason}. Install its jaxlib, or unset JAX_PLATFORMS"
        ) from error


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Send the log of this package alone to standard error."""
    level, propagate = log.level, log.propagate
    handler = progress.show()
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def waits_for_compiled_code() -> bool:
    """Return whether compiled code still runs. The interpreter would wait for its end."""
    devices = sys.modules.get("diffusion_jax.devices")
    return devices is not None and any(thread.name == devices.WAITING for thread in threading.enumerate())


def end_without_others(code: int) -> None:
    """End this process after PATIENCE seconds, unless it has ended before.

    At exit JAX waits for the other processes of the run, which may be waiting for this one.
    """
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return
    ending = threading.Timer(PATIENCE, os._exit, [code])
    ending.daemon = True
    ending.start()


def silence_threads() -> None:
    """Print no traceback of background threads. An error in a thread of Orbax is raised in the main thread as well."""
    threading.excepthook = lambda args: None
    for name in THREAD_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextlib.contextmanager
def quiet_threads(quiet: bool) -> Iterator[None]:
    """Silence background threads meanwhile, if `quiet`."""
    hook, loggers = threading.excepthook, [logging.getLogger(name) for name in THREAD_LOGGERS]
    levels = [logger.level for logger in loggers]
    if quiet:
        silence_threads()
    try:
        yield
    finally:
        threading.excepthook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def prepare_process() -> None:
    """Prepare streams and environment of a process.

    Streams that are closed go to the null device, characters that a terminal lacks are escaped, and TensorFlow logs
    errors only.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # os.open takes the number that is free, so that no other file gets it
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def set_threads(needed: int = 0) -> None:
    """Give XLA's CPU devices the number of threads that a command needs.

    0: with several CPU devices the number of cores and of devices together, with one device XLA's own choice. A device
    that waits for the others in an all-reduce holds a thread. If all threads wait, XLA aborts after 40 seconds
    ("Rendezvous … threads"). PJRT_NPROC is XLA's number of threads; a value of your own is kept.
    """
    if needed:
        os.environ.setdefault("PJRT_NPROC", str(needed))
        return
    forced = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    number = os.environ.get("JAX_NUM_CPU_DEVICES") or (forced[1] if forced else "1")
    if number.isdecimal() and int(number) > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("PJRT_NPROC", str(cores + int(number)))


def use_huge_pages() -> None:
    """Start again with malloc's memory in huge pages, where the kernel has them.

    A training step on a CPU then causes far fewer page faults. glibc reads this setting only when a process starts.
    Nothing happens where GLIBC_TUNABLES is set, or in a process that is not this command's own, such as a notebook's.
    """
    if sys.orig_argv[1 - len(sys.argv) :] != sys.argv[1:]:
        return
    with contextlib.suppress(OSError):  # another system than Linux
        if "GLIBC_TUNABLES" not in os.environ and "[madvise]" in HUGE_PAGES.read_text():
            os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
            os.execv(sys.executable, sys.orig_argv)


def keep_compiled() -> None:
    """Store compiled programs in COMPILED.

    Does nothing if JAX_COMPILATION_CACHE_DIR is set or no folder can be made.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home directory, or one that is read-only
        directory = COMPILED.expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
