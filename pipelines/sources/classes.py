"""Sources of one file per class, or a single such file: the Quick, Draw! layout.

    bee.npy              bitmaps of 28x28, or another size that is asked for
    bee.ndjson, bee.bin  strokes, drawn at any size; .jsonl, and packed by gzip or zstd
    bee.csv, bee.npz     strokes of Kaggle's Doodle Recognition, and of sketch-rnn

Each class is read from the first of these that has it. A directory that has `numpy_bitmap`,
`simplified`, `raw` or `binary` below it, as Google's bucket has, is entered: bitmaps first, strokes
where another size than 28 is asked for. Over http(s), where nothing can be listed, the first class
is requested under each ending. One file of lines or CSV that is the source may be of several
classes (strokes/words.py). The splits of sketch-rnn's files are kept apart.

JoinedReader adds the metadata of the simplified drawings to bitmaps: line i describes row i. This
holds for Google's files and may not hold for others, so some drawings of every batch, the first and
the last among them, are drawn and compared with their bitmaps. It needs libcairo.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.drawings.limits import Limits
from pipelines.sources.base import (
    BITMAP_SIZE,
    BadFileError,
    FileFormat,
    Names,
    Place,
    Reader,
    Request,
    Source,
    SourceFile,
    SourceKind,
    SourceOptions,
)
from pipelines.sources.bitmaps import inspect_npy, open_bitmaps
from pipelines.sources.class_files import (
    ARCHIVES,
    PACKED,
    SHARED,
    TABLES,
    class_names_in,
    find_class_files,
    split_rows,
    unread_beside,
)
from pipelines.sources.files import (
    DANGLING,
    content_digest,
    file_size,
    file_version,
    hashing,
    is_remote,
    join_url,
    list_files,
    why_absent,
)
from pipelines.sources.fitted import FittedReader, fitted_layout, native_side
from pipelines.sources.strokes.cairo import render_drawings
from pipelines.sources.strokes.files import holds_drawings, open_stroke_files, words_of
from pipelines.sources.strokes.formats import StrokeDrawing, columns_of
from pipelines.sources.strokes.reader import StrokeReader, open_strokes
from pipelines.sources.tfds.kind import is_prepared
from pipelines.store.errors import reading
from pipelines.store.manifest import digest_of

# The endings of a directory's files, and where Google keeps them.
SUFFIXES = {"numpy_bitmap": ".npy", "simplified": ".ndjson", "raw": ".ndjson", "binary": ".bin"}
# Where Kaggle and Google keep other files of strokes; read where a directory has none of those.
_OTHERS = ("train_simplified", "train_raw", "sketchrnn")
# The endings of other files of strokes, in order of preference.
_MORE = (*PACKED[:2], ".jsonl", *PACKED[2:], *TABLES, *ARCHIVES[::-1])
# Of files whose names do not tell whether they hold drawings: so many are looked at.
_LOOKED_AT = 10
# Of the 1,024 rows that a scan reads at once: 2 ms more, a tenth of parsing their lines.
_CHECKED_ROWS = 8


class JoinedReader(Reader):
    """Reads bitmaps and adds the columns of the file of strokes beside them."""

    def __init__(self, bitmaps: Reader, strokes: StrokeReader) -> None:
        self.bitmaps, self.strokes = bitmaps, strokes

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop) with Google's columns.

        Raises BadFileError if the two files are not in the same order, LackError where libcairo,
        which the comparison needs, is missing.
        """
        drawings = self.bitmaps.read(start, stop)
        lines = self._checked_lines(start, stop, drawings.images)
        problems = self._problems(start, drawings, lines)
        columns = columns_of(lines, self.strokes.file.columns)
        if all(problem is None for problem in problems):
            return dataclasses.replace(drawings, **columns)
        images = drawings.images.copy()
        images[problems != None] = 0  # noqa: E711
        return dataclasses.replace(drawings, images=images, problem=problems, **columns)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows."""
        return self.bitmaps.read_rows(rows)

    def _checked_lines(
        self, start: int, stop: int, images: npt.NDArray[np.uint8]
    ) -> list[StrokeDrawing]:
        """Return the lines without their strokes, after comparing some, first and last included.

        If one of these cannot be read, the next one is compared.
        """
        picks = np.linspace(0, stop - start - 1, min(_CHECKED_ROWS, stop - start)).astype(int)
        due, last = picks.tolist(), None
        lines: list[StrokeDrawing] = []
        for place, line in enumerate(self.strokes.parse(start, stop)):
            lines.append(
                dataclasses.replace(line, written=dataclasses.replace(line.written, strokes=[]))
            )
            if line.problem is not None:
                continue
            last = place, line
            if due and place >= due[0]:
                self._compare(start + place, line, images[place])
                due, last = [pick for pick in due if pick > place], None
        if due and last is not None:
            self._compare(start + last[0], last[1], images[last[0]])
        return lines

    def _compare(self, row: int, line: StrokeDrawing, image: npt.NDArray[np.uint8]) -> None:
        drawn = render_drawings([line.written.strokes], len(image))[0]
        if not np.array_equal(drawn, image):
            raise BadFileError(
                f"row {row} of the bitmaps is not line {row + 1} of {self.strokes.file.url}: the "
                "two files have different orders or sources and cannot be joined"
            )

    def _problems(
        self, start: int, drawings: Drawings, lines: Sequence[StrokeDrawing]
    ) -> npt.NDArray[np.object_]:
        """Return the problem of each row: its bitmap's, or that of the line that describes it."""
        problems = np.full(len(lines), None, object)
        name = PurePosixPath(self.strokes.file.url).name
        for place, line in enumerate(lines):
            if line.problem is not None:
                problems[place] = f"line {start + place + 1} of {name} beside it: {line.problem}"
        if drawings.problem is not None:
            problems = np.where(drawings.problem == None, problems, drawings.problem)  # noqa: E711
        return problems


def _read_bitmaps(file: SourceFile, image_size: int) -> Reader:
    side = native_side(file, image_size)
    reader: Reader = open_bitmaps(file, side)
    if file.metadata is not None:
        reader = JoinedReader(reader, StrokeReader(file.metadata, side))
    return FittedReader(reader, image_size, file.layout) if "fit" in file.layout else reader


class ClassFiles(SourceKind):
    """A file of drawings a class: bitmaps or strokes, in a directory or alone."""

    endings = (*dict.fromkeys(SUFFIXES.values()), *_MORE)
    formats: Mapping[str, FileFormat] = {
        "npy": FileFormat(read=_read_bitmaps, per_sec=100_000),
        "simplified": FileFormat(read=StrokeReader, per_sec=3_000, is_drawn=True, is_lines=True),
        "binary": FileFormat(read=StrokeReader, per_sec=3_000, is_drawn=True),
        "raw": FileFormat(read=StrokeReader, per_sec=550, is_drawn=True, is_lines=True),
        "simplified table": FileFormat(read=StrokeReader, per_sec=3_000, is_drawn=True),
        "raw table": FileFormat(read=StrokeReader, per_sec=550, is_drawn=True),
    }

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the directory itself and the folders below it that Google's bucket has."""
        del is_known
        order = _order(image_size)
        here = _folders(directory, names, [SUFFIXES[kind] for kind in order])
        here += _more_folders(directory, names)
        below = _folders_below(directory, order) or _folders_below(directory, _OTHERS)
        return [
            Place(kind="classes", directory=folders[0][0], folders=tuple(folders))
            for folders in (here, below)
            if folders
        ]

    def ask(self, directory: str, classes: Names | None, image_size: int) -> Place | None:
        """Return the directory with the first ending under which the server has the first class."""
        last = directory.rstrip("/").rsplit("/", 1)[-1]
        if last in SUFFIXES:
            return class_folder(directory, SUFFIXES[last])
        for ending in (*dict.fromkeys(SUFFIXES[kind] for kind in _order(image_size)), *_MORE):
            if classes and file_size(join_url(directory, classes[0] + ending)) is not None:
                return class_folder(directory, ending)
        return None

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the classes that have files, those of the catalogue first."""
        return words_of(place, options) or class_names_in(place, is_as_listed=options.keeps_splits)

    def open(self, place: Place, request: Request) -> Source:
        """Return the files of the classes, each opened and, if columns are wanted, joined."""
        options, files, bad = request.options, [], []
        if request.classes is None or options.every_class:
            bad = unread_beside(place)
        if bad and not options.skip_bad_files:
            raise BadFileError(bad[0][1])
        labels = words_of(place, options)
        found = find_class_files(place, None if labels else request.classes)
        with hashing({url: size for _, url, size in found}, place.directory):
            for class_name, url, size in found:
                try:
                    files += _open_file(url, size, class_name, request, labels)
                except BadFileError as error:
                    if not options.skip_bad_files:
                        raise
                    bad.append((url, str(error)))
        repairs = Counter(str(file.layout["repair"]) for file in files if file.layout.get("repair"))
        return Source(
            class_names=labels or tuple(dict.fromkeys(str(file.class_name) for file in files)),
            files=tuple(files),
            image_size=options.image_size,
            bad_files=tuple(bad),
            repairs=dict(repairs),
        )


def class_folder(directory: str, ending: str) -> Place:
    """Return the place of a directory whose files all have this ending."""
    return Place(kind="classes", directory=directory, folders=((directory, ending),))


def plan_bitmaps(files: Sequence[tuple[str, int, int, str]], options: SourceOptions) -> Source:
    """Return the source of bitmaps still to be made: (class, drawings, bytes, digest) of each."""
    return Source(
        class_names=tuple(name for name, *_ in files),
        files=tuple(_bitmaps("", *known) for known in files),
        image_size=options.image_size,
    )


def _order(image_size: int) -> list[str]:
    """Return Google's folders in order of preference."""
    first, *strokes = SUFFIXES
    return [first, *strokes] if image_size == BITMAP_SIZE else [*strokes, first]


def _folders(folder: str, names: Names, endings: Names) -> list[tuple[str, str]]:
    """Return the folder with each ending that its files have, in this order."""
    there = [ending for ending in dict.fromkeys(endings) if any(n.endswith(ending) for n in names)]
    return [(folder, ending) for ending in there]


def _more_folders(folder: str, names: Names) -> list[tuple[str, str]]:
    """Return the folder with each ending of other files of strokes that hold drawings."""
    found = []
    for _, ending in _folders(folder, names, _MORE):
        tried = [name for name in names if name.endswith(ending)][:_LOOKED_AT]
        if ending not in SHARED or any(holds_drawings(join_url(folder, name)) for name in tried):
            found.append((folder, ending))
    return found


def _folders_below(directory: str, kinds: Names) -> list[tuple[str, str]]:
    """Return the folders of these names with the endings of their files of drawings."""
    found = []
    for kind in kinds:
        folder = join_url(directory, kind)
        inside = list(list_files(folder))
        if not is_prepared(inside):
            found += _folders(folder, inside, [SUFFIXES[kind]] if kind in SUFFIXES else [])
            found += _more_folders(folder, inside)
    return found


def _open_file(
    url: str, size: int, class_name: str, request: Request, labels: Names
) -> list[SourceFile]:
    """Return a file that `find_class_files` has found, with its metadata if columns are wanted.

    labels  the classes of a file whose rows name their own
    """
    if size == DANGLING:
        raise BadFileError(f"{url}: {why_absent(url)}")
    if url.endswith(".npy"):
        file = _open_bitmaps(url, size, class_name, request)
        return _by_split(file) if request.options.keeps_splits else [file]
    return open_stroke_files(url, size, class_name, request, labels)


def _open_bitmaps(url: str, size: int, class_name: str, request: Request) -> SourceFile:
    cache_dir, options = request.cache_dir, request.options
    version = file_version(url)
    with reading(url):
        layout = inspect_npy(url, size)
    fitted = fitted_layout(url, layout["side"], options)
    digest, rows = content_digest(url, cache_dir), layout["rows"]
    file = _bitmaps(url, class_name, rows, size, digest, version=version, layout=layout)
    if fitted:
        file = dataclasses.replace(file, is_direct=False, layout={**layout, **fitted})
    return _join_strokes(file, cache_dir, options.limits) if options.columns else file


def _by_split(file: SourceFile) -> list[SourceFile]:
    """Return the rows of each split of a file of bitmaps; the file itself if nothing tells them."""
    splits = split_rows(file.url)
    if not splits:
        return [file]
    if sum(splits.values()) != file.rows or file.metadata is not None:
        raise BadFileError(
            f"{file.url} has {file.rows} drawings, and the table beside its folder says {splits}; "
            "metadata are not joined to splits: leave out what needs them"
        )
    parts, start = [], 0
    for split, rows in splits.items():
        offset = file.layout["offset"] + start * file.layout["side"] ** 2
        parts.append(
            dataclasses.replace(
                file,
                rows=rows,
                digest=f"sha256:{digest_of([file.digest, start, rows])}",
                layout={**file.layout, "offset": offset, "split": split},
            )
        )
        start += rows
    return parts


def _bitmaps(
    url: str, class_name: str, rows: int, size: int, digest: str, **more: Any
) -> SourceFile:
    return SourceFile(
        url=url,
        format="npy",
        class_name=class_name,
        rows=rows,
        bytes=size,
        digest=digest,
        is_direct=True,
        **more,
    )


def _join_strokes(file: SourceFile, cache_dir: Path, limits: Limits) -> SourceFile:
    """Return bitmaps with the simplified drawings of their class beside them.

    Raises ValueError if there are none, BadFileError if their number differs.
    """
    directory = file.url.rsplit("/", 1)[0]
    tried = [directory, f"{directory}/../simplified", f"{directory.rsplit('/', 1)[0]}/simplified"]
    for place in tried if not is_remote(directory) else tried[::2]:
        url = join_url(place, f"{file.class_name}.ndjson")
        size = file_size(url)
        if size is None:
            continue
        strokes = open_strokes(url, size, str(file.class_name), cache_dir, limits=limits)
        if strokes.rows != file.rows:
            raise BadFileError(
                f"{url} has {strokes.rows} lines for {file.rows} bitmaps: metadata are joined by "
                "row, both files must be whole"
            )
        return dataclasses.replace(file, metadata=strokes)
    raise ValueError(
        f"no {file.class_name}.ndjson beside {file.url} or in a directory `simplified` next to its "
        "own: metadata of bitmaps come from the simplified drawings"
    )
