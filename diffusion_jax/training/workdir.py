"""Directory of a run: place of its checkpoints, lock, checks of use."""

import contextlib
import fcntl
import logging
import os
import platform
import uuid
from collections.abc import Iterator

from etils import epath

from diffusion_jax import files

log = logging.getLogger(__name__)

LOCK = ".lock"


def checkpoints_of(workdir: epath.PathLike) -> epath.Path:
    """Return workdir/checkpoints as the absolute path that Orbax needs; URLs are absolute already."""
    path = files.place_of(workdir)
    return (path if "://" in str(path) else path.resolve()) / "checkpoints"


def check_reachable(place: epath.Path) -> None:
    """Raise OSError if a workdir at a URL cannot be read.

    `is_dir` does not report that.
    """
    if "://" not in str(place):
        return
    try:
        place.stat()
    except Exception as error:  # the storage's own, such as TensorFlow's
        if type(error).__name__ not in ("NotFoundError", "FileNotFoundError"):
            raise OSError(f"--workdir={place}: cannot be read ({' '.join(str(error).split())[:300]})") from error


def check_writable(workdir: epath.PathLike) -> None:
    """Make workdir/checkpoints and write there. Raises ValueError for a file in its place, PermissionError."""
    directory = checkpoints_of(workdir)
    workdir = directory.parent
    files.check_folder(directory, f"--workdir={workdir}: ")
    files.check_file(workdir / LOCK, f"--workdir={workdir}: ", appended=True)
    probe = directory / f"probe-{uuid.uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"--workdir={workdir}: cannot be written to ({error.strerror or error}). Choose another --workdir"
        ) from error


@contextlib.contextmanager
def lock(workdir: epath.PathLike) -> Iterator[None]:
    """Lock a run directory against other trainings.

    The kernel releases the lock when the process ends. Raises ValueError, naming the process that holds the lock, if
    another training runs there. URLs are not locked.
    """
    if "://" in str(workdir):
        yield
        return
    check_writable(workdir)
    with open(checkpoints_of(workdir).parent / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"--workdir={workdir}: {file.read().strip() or 'another process'} trains in it. Wait for it, end it, "
                "or choose another --workdir"
            ) from None
        except OSError as error:  # a file system that has no locks
            log.warning("%s cannot be locked (%s): make sure that nothing else trains there", workdir, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
