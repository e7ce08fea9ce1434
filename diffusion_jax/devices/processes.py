"""Processes of a run: joining them, the process that writes, rows, and preemption.

Each process reads its own rows of a batch.
"""

import contextlib
import glob
import importlib.util
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

NOTICES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals on which a run saves and ends: from schedulers, Ctrl-C, a closed terminal, SLURM's --signal=USR1."""
END_NOW = "; Ctrl-C (again) ends at once, without saving"


def initialise(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_devices: int = 0,
    wait_seconds: int = 300,
) -> None:
    """Join the other processes of this run, if there are any.

    The three arguments name them; without any, SLURM's environment or a TPU's metadata does. Must be called before any
    other function of JAX. local_devices: the number of devices that this process must see; 0: no check. Raises
    ValueError if only some of the three are given, or if the number of processes or devices is another than expected;
    ConnectionError if the other processes cannot be reached. If they have not come after wait_seconds, the process ends
    with exit code 2, as JAX would abort it.
    """
    given = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) in (1, 2):
        raise ValueError(
            f"--{missing[0]}: missing. Give all three, or none; given: "
            f"{', '.join(f'--{n}' for n in given if n not in missing)}"
        )
    if missing:
        arguments = from_slurm(os.environ) or ({} if _on_tpu() else None)
    else:
        assert num_processes is not None and process_id is not None
        if num_processes < 1:
            raise ValueError(f"--num_processes={num_processes}: must be at least 1")
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"--process_id={process_id}: must be 0 to {num_processes - 1} (--num_processes={num_processes})"
            )
        assert coordinator_address is not None
        check_address(coordinator_address)
        arguments = given | {"cluster_detection_method": "deactivate"}
    if arguments is not None and wait_seconds < 1:
        raise ValueError(f"--wait_seconds={wait_seconds}: must be at least 1")
    if arguments is not None and not jax.distributed.is_initialized():
        try:
            with _waiting(arguments, wait_seconds):
                jax.distributed.initialize(**arguments, initialization_timeout=wait_seconds + 60)
        except RuntimeError as error:
            raise ConnectionError(
                f"the processes of this run cannot connect ({error}). Check that process 0 runs at "
                f"{arguments.get('coordinator_address', 'the first node')}"
            ) from error
    expected = (arguments or {}).get("num_processes")
    if expected is not None and jax.process_count() != expected:
        raise ValueError(f"expected {expected} processes, but JAX sees {jax.process_count()}")
    if local_devices and jax.local_device_count() != local_devices:
        raise ValueError(
            f"--local_devices={local_devices}: process {jax.process_index()} sees {jax.local_device_count()} of "
            f"{jax.device_count()} devices. A task of a SLURM job sees a single GPU if there is one task per GPU, or "
            "if tasks are bound to GPUs (--gpus-per-task, --gpu-bind): use --ntasks-per-node=1, or --local_devices=1"
        )


def check_address(address: str) -> None:
    """Raise ValueError unless an address is HOST:PORT, ConnectionError if the host cannot be resolved."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator_address={address}: must be HOST:PORT, such as 10.0.0.1:1234")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise ConnectionError(f"--coordinator_address={address}: host {host!r} cannot be resolved ({error})") from error


@contextlib.contextmanager
def _waiting(arguments: Mapping[str, Any], seconds: int, interval: float = 30.0) -> Iterator[None]:
    """Log the wait for other processes every `interval` seconds. This process ends when the wait lasts too long."""
    address = arguments.get("coordinator_address", "the first node")
    who = f"the {arguments.get('num_processes', 'other')} processes of this run at {address}"
    connected = threading.Event()

    def watch() -> None:
        started = time.monotonic()
        while not connected.wait(min(interval, max(0.0, started + seconds - time.monotonic()))):
            waited = time.monotonic() - started
            if waited >= seconds:
                # Nothing ends the wait of JAX but its own time-out, which aborts the process.
                print(f"error: {who}: not all there after {seconds} s (--wait_seconds)", file=sys.stderr, flush=True)
                os._exit(2)
            log.info("waiting for %s (%.0f s so far)", who, waited)

    log.info("waiting for %s, at most %d s", who, seconds)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        connected.set()


def from_slurm(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the arguments of `jax.distributed.initialize` under SLURM, else None.

    They are for a step of a SLURM job with several tasks. The GPUs of a node are divided among its tasks, whether each
    task is bound to its own GPUs or sees all of them. (JAX alone gives every task a single GPU, even if a node has only
    one task.) Raises ValueError, naming the variable, where one is missing or does not fit.
    """

    def number(name: str, default: str | None = None) -> int:
        text = environment.get(name, default)
        if text is None or not text.isdecimal():
            raise _slurm_error(name, text)
        return int(text)

    if "SLURM_STEP_ID" not in environment or number("SLURM_STEP_NUM_TASKS", "1") < 2:
        return None
    local, node = number("SLURM_LOCALID"), number("SLURM_NODEID", "0")
    tasks_of_nodes = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    if node >= len(tasks_of_nodes):
        raise _slurm_error("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_STEP_TASKS_PER_NODE"))
    tasks = max(1, tasks_of_nodes[node])
    visible = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES", ""))
    gpus = len(visible.split(",")) if visible else number("SLURM_GPUS_ON_NODE", "0")
    share = max(1, gpus // tasks)
    first = local * share if gpus >= tasks else 0
    return {
        "num_processes": number("SLURM_STEP_NUM_TASKS"),
        "process_id": number("SLURM_PROCID"),
        "local_device_ids": list(range(first, first + share)) if gpus else [],
    }


def _tasks_per_node(text: str) -> list[int]:
    """Expand SLURM's "2(x3),1" to [2, 2, 2, 1]. Raises ValueError for another form."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    if not all(parts):
        raise _slurm_error("SLURM_STEP_TASKS_PER_NODE", text)
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def _slurm_error(name: str, value: str | None) -> ValueError:
    """Return the error of a variable that is missing (None) or does not fit."""
    wrong = "not set" if value is None else f"does not describe this task (got {value!r})"
    return ValueError(f"{name}: {wrong}. Start the tasks with srun, or unset SLURM_STEP_ID for a single process")


def _on_tpu() -> bool:
    """Return whether this machine has TPUs."""
    return importlib.util.find_spec("libtpu") is not None and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))


def is_first() -> bool:
    """Return whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


def wait_for_all(barrier: str) -> None:
    """Wait until every process of the run has reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(barrier)


def local_rows(batch_size: int) -> slice:
    """Return the rows of the global batch that this process reads. Raises ValueError if they cannot be divided."""
    each, rest = divmod(batch_size, jax.process_count())
    if rest:
        raise ValueError(f"batch_size={batch_size}: not divisible by {jax.process_count()} processes")
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


class Notice:
    """Signals on which this run ends.

    `notice(step)` returns the signal that came, or 0, the same in all processes after the same step: with several,
    JAX's preemption service passes the SIGTERM of one process on to all. While `raising` is set, a signal that comes to
    a single process is also raised at once, as KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.raising = False
        self._received = 0

    def __call__(self, step: int) -> int:
        """Return the signal that came until this step, or 0."""
        if jax.process_count() > 1:
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0
        return self._received

    def _handle(self, number: int, frame: Any) -> None:
        self._received = self._received or number
        if self.raising:
            raise KeyboardInterrupt


@contextlib.contextmanager
def preemption() -> Iterator[Notice]:
    """Catch the signals NOTICES in the main thread; yield the notice of them.

    For a single process. SIGHUP stays ignored where it is, as under nohup.
    A second SIGINT ends the process at once, with exit code 130, even while compiled code runs.
    """
    notice = Notice()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield notice
        return
    # Handlers of Python wait for compiled code, such as a compilation, to return; this thread does not.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        interrupted = False
        while came := os.read(reading, 1):
            if came[0] == signal.SIGINT and interrupted:
                print("error: interrupted twice", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
            if came[0] in NOTICES:
                log.info("%s: saving after this step%s", signal.Signals(came[0]).name, END_NOW)
            interrupted |= came[0] == signal.SIGINT
        os.close(reading)

    caught = [n for n in NOTICES if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, notice._handle) for number in caught}
    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield notice
    finally:
        signal.set_wakeup_fd(former)
        os.close(writing)
        for number, handler in previous.items():
            signal.signal(number, handler)
