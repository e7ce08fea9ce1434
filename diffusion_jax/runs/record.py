"""Record of the processes that trained a run, in workdir/record.jsonl.

Each process writes one line at its start and one at its end.

    {"event": "start", "time": …, "step": 0, "host": …, "command": […], "devices": …, "commit": …, "dirty": …, …}
    {"event": "end", "time": …, "step": 2500, "outcome": "finished", "peak_memory_bytes": {"host": …, "device": …}}

Times are UTC, in ISO 8601. A start without an end belongs to a process that was killed.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from diffusion_jax import __version__, files

RECORD = "record.jsonl"


@dataclasses.dataclass
class Session:
    """Progress of this process, for its last line."""

    step: int


@contextlib.contextmanager
def recording(workdir: epath.PathLike, step: int) -> Iterator[Session]:
    """Write the lines of this process around its training from `step` on.

    Yields the session, to be kept up to date. Only the first process writes.
    """
    session = Session(step)
    if jax.process_index() == 0:
        _append(workdir, {"event": "start", "step": step, **environment()})
    outcome = "finished"
    try:
        yield session
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # a full disk, which ends the run with an error of its own
                _append(
                    workdir,
                    {"event": "end", "step": session.step, "outcome": outcome, "peak_memory_bytes": peak_memory()},
                )


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Return the lines of a run's record, oldest first; empty where there is none. An incomplete line is skipped."""
    path = files.place_of(workdir) / RECORD
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def environment() -> dict[str, Any]:
    """Return the host, devices, command, versions and code of this process."""
    kinds = sorted({f"{device.platform} ({device.device_kind})" for device in jax.devices()})
    return {
        "host": platform.node(),
        "processes": jax.process_count(),
        "devices": f"{jax.device_count()} x {', '.join(kinds)}",
        "command": sys.argv,
        "versions": versions(),
        **source_code(),
    }


def versions() -> dict[str, str]:
    """Return the versions of this package, Python, and the packages behind training."""
    names = ("jax", "flax", "optax", "orbax-checkpoint")
    packages = {name: importlib.metadata.version(name) for name in names}
    return {"diffusion_jax": __version__, "python": platform.python_version(), **packages}


def source_code(folder: pathlib.Path = pathlib.Path(__file__).parent) -> dict[str, Any]:
    """Return the git commit of a folder and True if tracked files differ. None without git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if git("ls-files", "."):  # a package installed within another repository is not of its commit
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        pass
    return {"commit": None, "dirty": None}


def peak_memory() -> dict[str, int | None]:
    """Return the peak bytes of this process and its first device; None if unknown."""
    unit = 1 if sys.platform == "darwin" else 1024
    on_device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "device": on_device}


def _append(workdir: epath.PathLike, values: dict[str, Any]) -> None:
    directory = files.place_of(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with (directory / RECORD).open("a") as file:
        file.write(json.dumps({"event": values.pop("event"), "time": now, **values}) + "\n")
