"""Scratch files with a checksum: the content, then a line with its xxh3_128.

    content, newline, xxh3_128 of the content as 32 hexadecimal digits, newline

A build deletes what does not match its checksum, warns, and makes it again. The checksum is last, so
that a truncated file is detected too.
"""

import re
from collections.abc import Sequence

import xxhash

from pipelines.store.artifacts import Store
from pipelines.store.errors import StoreError

SEAL_BYTES = 34
_SEAL = re.compile(rb"\n[0-9a-f]{32}\n")

Buffer = bytes | memoryview


class ScratchError(StoreError):
    """What is kept between the steps of a build is not what was written."""


def sealed(content: bytes) -> bytes:
    """Return content with its seal."""
    return content + b"\n%s\n" % checksum(content).encode("ascii")


def unsealed(content: Buffer, path: str) -> memoryview:
    """Return what was sealed, in place; raise ScratchError, naming `path`, if the checksum differs."""
    view = memoryview(content)
    body, seal = view[:-SEAL_BYTES], bytes(view[-SEAL_BYTES:])
    if not is_seal(seal) or seal.strip() != checksum(body).encode("ascii"):
        raise damaged(path)
    return body


def is_seal(end: bytes) -> bool:
    """Return whether a file that ends so may be whole; nothing is read to tell."""
    return _SEAL.fullmatch(end) is not None


def checksum(content: Buffer) -> str:
    """Return the xxh3_128 of content, 32 hexadecimal digits: it guards against accidents."""
    return xxhash.xxh3_128_hexdigest(content)


def read_scratch(store: Store, path: str) -> memoryview:
    """Return what was sealed under `path`; raise ScratchError if its checksum differs."""
    return store.surely(lambda: unsealed(store.get(path), path))


def forget_damaged(store: Store, paths: Sequence[str]) -> list[str]:
    """Read these files in full, delete those that do not hold and return them.

    One that is not there is nothing to forget.
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
