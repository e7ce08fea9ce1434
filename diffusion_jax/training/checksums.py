"""Checksums of a checkpoint's files, in a manifest that is written last.

Orbax's array files have none: a flipped bit would be read without an error.
"""

import json
import logging
import zlib
from collections.abc import Iterator

from etils import epath

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
OWN = "sums.process_"
"""Prefix of the files in which each process notes the checksums of its arrays."""


def seal(directory: epath.Path) -> None:
    """Write the manifest of each checkpoint in a directory that has none.

    Orbax calls this in a background thread of the process that finishes a save, before the final renaming.
    """
    for written in directory.iterdir():
        if written.is_dir() and not (written / MANIFEST).exists():
            (written / MANIFEST).write_text(json.dumps(_checksums(written), indent=0))


def sum_own(item: epath.Path, process: int) -> None:
    """Write the checksums of the arrays that a process has written of an item."""
    own = sorted(_files(item / f"ocdbt.process_{process}"))
    (item / f"{OWN}{process}").write_text(json.dumps({str(path.relative_to(item)): _checksum(path) for path in own}))


def _checksums(directory: epath.Path) -> dict[str, str]:
    """Return the checksum of each file of the items by path.

    Files at the top are left out: Orbax still changes them.
    """
    found = {}
    for item in (item for item in directory.iterdir() if item.is_dir()):
        noted = [json.loads(path.read_text()) for path in item.glob(f"{OWN}*")]
        known = {name: value for of_process in noted for name, value in of_process.items()}
        for path in sorted(_files(item)):
            found[str(path.relative_to(directory))] = known.get(str(path.relative_to(item))) or _checksum(path)
    return found


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    """Yield every file below a directory, if it exists."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _checksum(path: epath.Path) -> str:
    """Return CRC-32 and size."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x} {path.stat().length}"


def damage(directory: epath.Path, item: str) -> str:
    """Return the damage to the files of an item as text, or ""."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        expected = {path: value for path, value in manifest.items() if path.split("/")[0] == item}
    except FileNotFoundError:
        log.warning("%s has no %s: reading it unchecked", directory, MANIFEST)
        return ""
    except (ValueError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    actual = {str(path.relative_to(directory)): _checksum(path) for path in _files(directory / item)}
    wrong = sorted(path for path in actual.keys() | expected.keys() if not _same(actual.get(path), expected.get(path)))
    return f"{wrong[0]} is not as it was written ({len(wrong)} such files)" if wrong else ""


def _same(found: str | None, noted: str | None) -> bool:
    """Compare checksums; early manifests have the CRC-32 alone."""
    return found is not None and noted in (found, found.split()[0])
