"""Read the pictures of a folder by an index of their content, and tell which way their ink is.

The index is an Arrow file in the cache: name, size and SHA-256 of each picture, in order. It is
found again as long as names, sizes, modification times and inodes stay what they are. A reader
checks what it reads against it, so that a picture that changes or vanishes while a dataset is built
is an error.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.batch import Drawings
from pipelines.drawings.limits import Limits
from pipelines.drawings.pictures import PictureError, decode_drawings, drawing_of, open_picture
from pipelines.drawings.polarity import is_dark_ink
from pipelines.processes.progress import advance
from pipelines.sources.base import BadFileError, Reader, SourceFile
from pipelines.sources.files import why_absent
from pipelines.sources.metadata import parse_column
from pipelines.store.local_files import sha256_of, write_atomically
from pipelines.store.manifest import digest_of

_DIGEST = b"digest"
# Pictures of a class that decide which way its ink is, and the share that may disagree.
_SAMPLED, _MINORITY = 64, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Where the index of some pictures is, what they have together, and their digest."""

    path: Path
    rows: int
    bytes: int
    digest: str


def sizes_and_key(folder: Path, names: Sequence[str]) -> tuple[list[int], str]:
    """Return the sizes of pictures, and what changes when one is written to.

    Raises BadFileError for a link that leads nowhere.
    """
    sizes, key = [], hashlib.sha256(os.fsencode(folder))
    for name in names:
        path = folder / name
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise BadFileError(f"{path}: {why_absent(str(path))}") from error
        sizes.append(status.st_size)
        stated = f"\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}\0"
        key.update(os.fsencode(name) + stated.encode())
    return sizes, key.hexdigest()


def index_pictures(
    folder: Path, names: Sequence[str], sizes: Sequence[int], key: str, cache_dir: Path
) -> Index:
    """Return the index of pictures, from the cache or after reading all of them."""
    path = cache_dir / "pictures" / f"{key}.arrow"
    if path.is_file():
        advance(sum(sizes))
    else:
        write_atomically(path, _index_bytes(folder, names, sizes))
    with pa.memory_map(str(path)) as file:
        metadata = pa.ipc.open_file(file).schema.metadata
    return Index(
        path=path,
        rows=len(names),
        bytes=sum(sizes),
        digest=f"sha256:{metadata[_DIGEST].decode()}",
    )


def _index_bytes(folder: Path, names: Sequence[str], sizes: Sequence[int]) -> bytes:
    digests = [bytes.fromhex(sha256_of(folder / name)) for name in names]
    raw_names = [os.fsencode(name) for name in names]
    whole = hashlib.sha256()
    for name, digest in zip(raw_names, digests, strict=True):
        whole.update(name + b"\0" + digest)
    columns = {
        "name": pa.array(raw_names, pa.binary()),
        "size": pa.array(sizes, pa.int64()),
        "sha256": pa.array(digests, pa.binary(32)),
    }
    return arrow_bytes(pa.table(columns).replace_schema_metadata({_DIGEST: whole.hexdigest()}))


def arrow_bytes(table: pa.Table) -> bytes:
    """Return a table as an Arrow file, of which rows are read in place."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


class FolderReader(Reader):
    """Reads the pictures of one class in one folder, in the order of their names."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        self.folder = Path(file.url)
        self.index = self._table("index")
        self.metadata = self._table("metadata") if "metadata" in file.layout else pa.table({})

    def read(self, start: int, stop: int) -> Drawings:
        """Return the pictures [start, stop); one that is no drawing, or too large, has a problem.

        Raises BadFileError if one is not what it was when the source was opened.
        """
        rows = self.index.slice(start, stop - start)
        names = [os.fsdecode(name) for name in rows["name"].to_pylist()]
        images, problems, repairs = zip(*map(self._decoded, names, *_values(rows)), strict=True)
        problem = np.concatenate(problems)
        columns: dict[str, npt.NDArray[Any]] = {}
        for name in self.metadata.column_names:
            column = self.metadata[name].slice(start, stop - start)
            columns[name], bad = parse_column(name, name, column)
            for row, text in bad.items():
                problem[row] = problem[row] or text
        pixels = np.concatenate(images)
        for row in np.flatnonzero(problem != None).tolist():  # noqa: E711
            problem[row] = f"{names[row]}: {problem[row]}"
            pixels[row] = 0
        return Drawings(
            images=pixels,
            label=np.zeros(len(names), np.int64),
            problem=problem,
            repair=np.concatenate(repairs),
            **columns,
        )

    def _decoded(
        self, name: str, size: int, sha256: bytes
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.object_], npt.NDArray[np.object_]]:
        limits, layout = self.file.limits, self.file.layout
        if problem := limits.problem("max_line_bytes", size):
            nothing = np.zeros((1, self.image_size, self.image_size), np.uint8)
            return nothing, np.array([problem], object), np.full(1, None, object)
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError:
            content = None
        if content is None or hashlib.sha256(content).digest() != sha256:
            raise BadFileError(
                f"{self.folder / name} changed while it was read: run it again when it no longer "
                "changes"
            )
        return decode_drawings(
            [content], self.image_size, limits, fit=layout["fit"], is_dark=layout["is_dark"]
        )

    def _table(self, name: str) -> pa.Table:
        path = self.file.layout[name]
        try:
            with pa.memory_map(path) as file:
                return pa.ipc.open_file(file).read_all()
        except FileNotFoundError as error:
            raise BadFileError(
                f"{self.file.url}: its index {path} is no longer in the cache: run it again"
            ) from error


def _values(rows: pa.Table) -> tuple[list[int], list[bytes]]:
    return rows["size"].to_pylist(), rows["sha256"].to_pylist()


def write_columns(values: dict[str, list[str | None]], cache_dir: Path) -> tuple[Path, str]:
    """Keep metadata of pictures, as text; return where, and their digest."""
    digest = digest_of(values)
    path = cache_dir / "pictures" / f"{digest}.arrow"
    if not path.is_file():
        columns = {name: pa.array(column, pa.string()) for name, column in values.items()}
        write_atomically(path, arrow_bytes(pa.table(columns)))
    return path, digest


def has_dark_ink(
    paths: Sequence[Path], digests: Sequence[str], limits: Limits, cache_dir: Path
) -> bool:
    """Return whether the pictures of a class are dark ink on light paper.

    Some pictures decide, evenly spaced; what is transparent, or no drawing, has no vote. Remembered
    by the digests of all.

    Raises BadFileError if they do not agree.
    """
    memo = cache_dir / "polarity" / digest_of([*digests, *limits.stated().items()])
    if memo.is_file():
        return memo.read_text("ascii") == "dark"
    picks = np.linspace(0, len(paths) - 1, min(_SAMPLED, len(paths))).astype(int).tolist()
    votes = {paths[pick]: _vote(paths[pick], limits) for pick in picks}
    by_vote = {
        vote: [path for path, found in votes.items() if found == vote]
        for vote in ("dark", "light", "either")
    }
    dark, light = by_vote["dark"], by_vote["light"]
    if not dark and not light and by_vote["either"]:
        raise BadFileError(
            f"{by_vote['either'][0]}: whether its ink is dark or light cannot be told, nor of any "
            "other of its class: ink reaches the edge; put paper around the drawings"
        )
    if min(len(dark), len(light)) > _MINORITY * (len(dark) + len(light)):
        raise BadFileError(
            f"{dark[0]} has dark ink on light paper, {light[0]} light ink on dark paper, as have "
            f"{len(dark)} and {len(light)} of {len(picks)} pictures of the class: save all in one way"
        )
    is_dark = len(dark) > len(light)
    write_atomically(memo, b"dark" if is_dark else b"light")
    return is_dark


def _vote(path: Path, limits: Limits) -> str:
    """Return which ink a picture has: dark, light, either, or "" where it is no matter."""
    if limits.problem("max_line_bytes", path.stat().st_size):
        return ""
    try:
        picture = open_picture(path.read_bytes(), limits)
        image, _ = drawing_of(picture)
    except PictureError:
        return ""
    if picture.alpha is not None:
        return ""
    return {True: "dark", False: "light", None: "either"}[is_dark_ink(image)]
