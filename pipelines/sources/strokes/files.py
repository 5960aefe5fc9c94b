"""Open the files of strokes of a class, whatever form they have.

.ndjson, .jsonl, .bin, .csv, .tsv   read in place
.ndjson.gz, .jsonl.zst, ..., .npz   their lines are kept in the cache, and read there
"""

import dataclasses
from pathlib import Path

from pipelines.sources.base import (
    BadFileError,
    Names,
    Place,
    Request,
    SourceFile,
    SourceOptions,
)
from pipelines.sources.class_files import LINES, PACKED, TABLES, catalogue_order, class_of_file
from pipelines.sources.files import content_digest, file_size, file_version
from pipelines.sources.strokes.packed import plain_chunks, unpack_lines
from pipelines.sources.strokes.reader import open_strokes
from pipelines.sources.strokes.simplify import Reading
from pipelines.sources.strokes.sketch_rnn import drawing_arrays, keep_drawings
from pipelines.sources.strokes.tables import read_head
from pipelines.sources.strokes.words import words_in


def holds_drawings(url: str) -> bool:
    """Whether a file whose name does not tell it begins as one of drawings does."""
    size = file_size(url)
    try:
        if not size:
            return False
        if url.endswith(".npz"):
            return bool(drawing_arrays(url, size))
        if url.endswith(TABLES):
            return read_head(url, size)[0] is not None
        return b'"drawing"' in next(plain_chunks(url, size), b"")
    except BadFileError:
        return False


def words_of(place: Place, options: SourceOptions) -> tuple[str, ...]:
    """Return the classes of one file whose rows name them; none if its name does."""
    url = place.directory
    if place.folders or not url.endswith((*LINES, *PACKED, *TABLES)):
        return ()
    size, name = file_size(url) or 0, class_of_file(url)
    return catalogue_order(words_in(url, size, file_version(url), name, options.limits))


def open_stroke_files(
    url: str, size: int, class_name: str, request: Request, labels: Names = ()
) -> list[SourceFile]:
    """Return a file of strokes as those of a source: one, or one a split.

    labels  the classes of a file whose rows name their own

    Raises BadFileError if it is not what its name says.
    """
    cache_dir, limits = request.cache_dir, request.options.limits
    if url.endswith(".npz"):
        kept = keep_drawings(url, size, cache_dir)
        opened = [_open_kept(url, path, split, class_name, request) for split, path in kept.items()]
        return _on_one_page(opened)
    if url.endswith(PACKED):
        path = unpack_lines(url, size, cache_dir)
        return [_open_kept(url, path, "", class_name, request, labels)]
    return [open_strokes(url, size, class_name, cache_dir, limits=limits, labels=labels)]


def _open_kept(
    url: str, path: Path, split: str, class_name: str, request: Request, labels: Names = ()
) -> SourceFile:
    """Return the lines that are kept of a file, of one of its splits if it has any."""
    cache_dir, limits = request.cache_dir, request.options.limits
    own, size = {"split": split} if split else {}, path.stat().st_size
    if split and not size:
        empty = content_digest(str(path), cache_dir)
        return SourceFile(
            url=str(path),
            format="simplified",
            class_name=class_name,
            rows=0,
            bytes=0,
            digest=empty,
            layout={"index": [], **own},
        )
    try:
        file = open_strokes(str(path), size, class_name, cache_dir, limits=limits, labels=labels)
    except BadFileError as error:
        raise BadFileError(str(error).replace(str(path), url)) from error
    return dataclasses.replace(file, layout={**file.layout, **own})


def _on_one_page(splits: list[SourceFile]) -> list[SourceFile]:
    """Return the splits of one file read alike: if one is of another page than Google's, all are."""
    if not any(_is_canvas(split) for split in splits):
        return splits
    how = {"reading": dataclasses.asdict(Reading(is_canvas=True)), "how": "another page"}
    return [
        split if _is_canvas(split) else dataclasses.replace(split, layout={**split.layout, **how})
        for split in splits
    ]


def _is_canvas(file: SourceFile) -> bool:
    return bool(file.layout.get("reading", {}).get("is_canvas"))
