"""Read the samples of a WebDataset tar: neighboring members of one name up to its first dot.

    train/000017.png train/000017.cls train/000017.json    the sample "train/000017"

https://github.com/webdataset/webdataset#the-webdataset-format has the rule. Headers are read by
Python's tarfile (ustar, GNU's and POSIX's long names); nothing is ever extracted, and names are
keys, not paths. Python takes a damaged header within a tar for its end, so the end is checked here.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipelines.sources.base import BadFileError
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import first_line
from pipelines.sources.pieces import PieceFile
from pipelines.store.printable import describe_value

# As the format has it; names that begin with a dot are no members of a sample.
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_FOLDER = re.compile(r"(?:\./)?[^/.][^/]*/[^/]+")


@dataclass(slots=True)
class Sample:
    """One sample.

    key      its name, which is untrusted
    start    where its first header begins
    members  offset and size of the content by suffix, in lower case
    problem  why it is none
    """

    key: str
    start: int
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""

    def named(self) -> str:
        """Return its name for messages."""
        return f"sample {describe_value(self.key)}"

    @property
    def is_in_folder(self) -> bool:
        """Whether its name has a folder, which may be that of its class."""
        return _FOLDER.fullmatch(self.key) is not None


def samples(tar: PieceFile, start: int) -> Iterator[Sample]:
    """Yield the samples from a header on; raise BadFileError if the tar is damaged or truncated."""
    sample: Sample | None = None
    for member in _members(tar, start):
        name = _NAME.fullmatch(member.name)
        if name is None or member.isdir():
            continue
        key, suffix = name[1], name[2].lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key, member.offset)
        if suffix in sample.members:
            sample.problem = f"it has two members .{_cut(suffix)}"
        if not member.isreg() or member.issparse():
            sample.problem = (
                f"its .{_cut(suffix)} is a link, device or sparse file, not a plain one"
            )
        sample.members[suffix] = (member.offset_data, member.size)
    if sample is not None:
        yield sample


def _members(tar: PieceFile, start: int) -> Iterator[tarfile.TarInfo]:
    url = tar.ranges.url
    tar.seek(start)
    try:
        archive = tarfile.TarFile(fileobj=tar, encoding="utf-8", errors="surrogateescape")
        while (member := archive.next()) is not None:
            archive.members.clear()  # pyrefly: ignore  (it would keep all of them)
            yield member
    except tarfile.TarError as error:
        tar.seek(0)
        head = tar.read(512)
        if start == 0 and head[257:262] != b"ustar":
            raise BadFileError(f"{url} is not a tar archive: {describe_content(head)}") from error
        raise BadFileError(
            f"{url} is truncated or damaged: {first_line(error)}: fetch it again"
        ) from error
    _check_end(tar, archive.offset)


def _check_end(tar: PieceFile, end: int) -> None:
    """Raise BadFileError unless blocks of zeros, and nothing else, follow the last member."""
    tar.seek(end)
    if tar.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise BadFileError(
            f"{tar.ranges.url} has a damaged header or ends at byte {end}, where the next member or "
            "the end of the archive should be: it is truncated or damaged, fetch it again"
        )
    while piece := tar.read():
        if piece.count(0) != len(piece):
            raise BadFileError(
                f"{tar.ranges.url} goes on behind the end of the archive at byte {end}: of tars that "
                "were put together with cat only the first would be read, give them one by one"
            )


def _cut(suffix: str) -> str:
    return describe_value(suffix).strip('"')
