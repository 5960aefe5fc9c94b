"""Resumable units: sealed scratch files and records of finished units.

    sealed  content, newline, xxh3_128 of the content as 32 hexadecimal digits, newline
    unit    its files under keys that the plan gives, then its record, which is sealed JSON

The checksum is last, so that a truncated file is detected too. A unit is done if its record exists
and its files have the recorded size and SHA-256: a kill leaves no record, and a power failure may
leave any file empty or truncated. Damaged units, and units that another version recorded with
other fields, are made again, with a warning.
"""

import dataclasses
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import xxhash

from pipelines.store.artifacts import Store
from pipelines.store.errors import StoreError
from pipelines.store.manifest import FileEntry

SEAL_BYTES = 34
_SEAL = re.compile(rb"\n[0-9a-f]{32}\n")

# A Beam counter, so that the caller can warn: a worker's log may be lost.
DAMAGED_UNITS = "damaged_units"

Buffer = bytes | memoryview
Record = TypeVar("Record", bound="UnitRecord")


class ScratchError(StoreError):
    """A scratch file of a build differs from what was written."""


def sealed(content: bytes) -> bytes:
    """Return the content followed by its seal."""
    return content + b"\n%s\n" % checksum(content).encode("ascii")


def unsealed(content: Buffer, path: str) -> memoryview:
    """Return the sealed content, in place; raise ScratchError naming `path` if the checksum differs."""
    view = memoryview(content)
    body, seal = view[:-SEAL_BYTES], bytes(view[-SEAL_BYTES:])
    if not is_seal(seal) or seal.strip() != checksum(body).encode("ascii"):
        raise damaged(path)
    return body


def is_seal(end: bytes) -> bool:
    """Return whether a file's last bytes have the form of a seal; the content is not checked."""
    return _SEAL.fullmatch(end) is not None


def checksum(content: Buffer) -> str:
    """Return the xxh3_128 of content, 32 hexadecimal digits; it detects accidental damage only."""
    return xxhash.xxh3_128_hexdigest(content)


def read_scratch(store: Store, path: str) -> memoryview:
    """Return the content sealed under `path`; raise ScratchError if its checksum differs."""
    return store.surely(lambda: unsealed(store.get(path), path))


def forget_damaged(store: Store, paths: Sequence[str]) -> list[str]:
    """Read these files in full, delete those whose checksum differs and return them.

    Missing files are ignored.
    """
    found = []
    for path in paths:
        try:
            read_scratch(store, path)
        except FileNotFoundError:
            continue
        except ScratchError:
            store.delete(path)
            found.append(path)
    return found


def damaged(path: str) -> ScratchError:
    """Return the error for a scratch file whose checksum does not match."""
    return ScratchError(f"{path} is damaged: it is not what was written there")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """The output of a unit; subclasses add fields that are needed without reading its files.

    files          of the artifact, relative to it
    scratch_files  for a later unit, relative to the scratch of the run
    """

    files: tuple[FileEntry, ...] = ()
    scratch_files: tuple[FileEntry, ...] = ()


def do_unit(
    store: Store,
    path: str,
    kind: type[Record],
    *,
    is_whole: Callable[[Record], bool],
    make: Callable[[], Record],
) -> tuple[Record, dict[str, int]]:
    """Return a unit's record and its counters; make the unit unless its record says it is done.

    path      the key of the record, which is put once `make` has put the files
    is_whole  whether the files match the record; raises ScratchError to have damage counted
    """
    counted = {"made_units": 1}
    try:
        record = read_record(store, path, kind)
        if is_whole(record):
            return record, {"kept_units": 1}
    except FileNotFoundError:
        pass
    except ScratchError:
        counted[DAMAGED_UNITS] = 1
    record = make()
    content = json.dumps(dataclasses.asdict(record), sort_keys=True).encode("ascii")
    store.put(path, sealed(content))
    return record, counted


def read_record(store: Store, path: str, kind: type[Record]) -> Record:
    """Return the record under `path`; raise ScratchError if it is of another kind."""
    raw = json.loads(bytes(read_scratch(store, path)))
    try:
        for name in ("files", "scratch_files"):
            raw[name] = [FileEntry(**entry) for entry in raw[name]]
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
    except (KeyError, TypeError) as error:  # of another version
        raise damaged(path) from error


def holds_all(store: Store, folder: str, entries: Iterable[FileEntry]) -> bool:
    """Return whether each file below `folder` has its size and its SHA-256."""
    return all(
        store.holds(posixpath.join(folder, entry.path), entry.bytes, entry.sha256)
        for entry in entries
    )


def missing_paths(store: Store, folder: str, paths: Iterable[str]) -> list[str]:
    """Return those of the planned paths below `folder` that are not in the store."""
    there = {item.path for item in store.objects(folder)}
    return [path for path in paths if path not in there]
