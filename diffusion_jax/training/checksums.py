"""Whether a checkpoint is as it was written: a manifest with a checksum of every file, written last.

Orbax's array files carry none: it reads a flipped bit without a word.
"""

import json
import logging
import zlib
from collections.abc import Iterator

from etils import epath

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
OWN = "sums.process_"
"""Beginning of the names of the files in which each process notes what it has written."""


def seal(directory: epath.Path) -> None:
    """Write the manifest of the checkpoint that has just been written but does not have its final name yet.

    Orbax calls this in its background thread on the one process that finishes a save.
    """
    for written in directory.iterdir():
        if written.is_dir() and not (written / MANIFEST).exists():
            (written / MANIFEST).write_text(json.dumps(_checksums(written), indent=0))


def sum_own(item: epath.Path, process: int) -> None:
    """Note the checksums of what this process has written of an item, its arrays, beside them."""
    own = sorted(_files(item / f"ocdbt.process_{process}"))
    (item / f"{OWN}{process}").write_text(json.dumps({str(path.relative_to(item)): _checksum(path) for path in own}))


def _checksums(directory: epath.Path) -> dict[str, str]:
    """The checksum of each file of the items, by path; Orbax's own notes at the top of the directory are to change."""
    found = {}
    for item in (item for item in directory.iterdir() if item.is_dir()):
        noted = [json.loads(path.read_text()) for path in item.glob(f"{OWN}*")]
        known = {name: value for of_process in noted for name, value in of_process.items()}
        for path in sorted(_files(item)):
            found[str(path.relative_to(directory))] = known.get(str(path.relative_to(item))) or _checksum(path)
    return found


def _files(directory: epath.Path) -> Iterator[epath.Path]:
    """Every file below a directory; none where there is no such directory."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _checksum(path: epath.Path) -> str:
    """CRC-32 and size."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x} {path.stat().length}"


def damage(directory: epath.Path, item: str) -> str:
    """What is wrong with the files of an item of a checkpoint; "" if nothing is."""
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
    """Early manifests have the CRC-32 alone."""
    return found is not None and noted in (found, found.split()[0])
