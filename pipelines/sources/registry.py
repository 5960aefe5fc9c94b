"""From what a person writes after --source to a source with known files.

    doodles               drawn by the program itself, in Google's formats, kept in the cache
    quickdraw             Google's bucket, downloaded into the cache, checked by size and SHA-256
    PATH or URL           a directory of files, or one file: .npy bitmaps, .ndjson or .bin strokes,
                          Parquet; or a prepared TFDS directory

Which files of a directory are read is seen from their names (kinds.py). What often lies under such
names and is something else:

    a sign-in page, a Git LFS pointer, a pickle, an archive     refused, saying which it is
    truncated, with bytes added, a damaged header, not JSON     refused, with the place
    .bin that holds rows of 784 bytes (also shifted, inverted)  refused: no header says what it is
    pickled objects in .npy, floats, Fortran order              refused, never unpickled
    (n, 1, 784), (n, 1, 28, 28); wider integers 0..255; bool    put right, counted in `repairs`
    over half blank, inverted, noise in place of paper          refused by the scan
    a class twice, another class inside, a label of no class    refused
    kinds of files that are not read (unread.py)                refused where all classes are taken

Refused files stop a build, or are left out and named in the manifest (on_bad_file).
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipelines.catalogue import SEED_CLASSES, catalogue, class_entry
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.processes.progress import Progress
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.sources.class_files import (
    class_names_in,
    find_class_files,
    join_strokes,
    open_class_file,
    unread_beside,
)
from pipelines.sources.directories import BITMAP_SIZE, ENDINGS, find_place
from pipelines.sources.doodles.make import DOODLES_PER_CLASS, doodles_dir, write_doodles
from pipelines.sources.download import download_classes
from pipelines.sources.files import (
    hashing,
    is_listable,
    is_remote,
    local_path,
    secrets_of,
    without_secrets,
)
from pipelines.sources.parquet import open_tables, table_names
from pipelines.sources.tfds import open_prepared, prepared_names
from pipelines.store.printable import printable

DOODLES = "doodles"
QUICKDRAW = "quickdraw"
# Sources that are no place; their classes are Google's.
NAMED = (DOODLES, QUICKDRAW)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to open a source.

    image_size      pixels a side; other than 28 needs strokes
    seed, doodles_per_class  of the doodles
    columns         metadata to read; bitmaps have them from the simplified drawings beside them
    skip_bad_files  leave out what is not what its name says, and name it in `bad_files`
    limits          what is too large to be read
    every_class     all classes were asked for: a file of a kind that is not read is a bad one
    base_url        stands in for Google's bucket
    """

    image_size: int = BITMAP_SIZE
    seed: int = 0
    doodles_per_class: int = DOODLES_PER_CLASS
    columns: tuple[str, ...] = ()
    skip_bad_files: bool = False
    limits: Limits = DEFAULT
    every_class: bool = False
    base_url: str | None = None


def open_source(
    text: str,
    classes: Sequence[str] | None,
    cache_dir: Path,
    *,
    image_size: int = BITMAP_SIZE,
    seed: int = 0,
    doodles_per_class: int = DOODLES_PER_CLASS,
    columns: Sequence[str] = (),
    skip_bad_files: bool = False,
    limits: Limits = DEFAULT,
    every_class: bool = False,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Source:
    """Return the source that `text` names, with the files of `classes` (None: all it has).

    The keywords are those of `SourceOptions`. Raises ValueError if the source has none of a
    class or cannot give what the options ask for, BadFileError for a file that is not what its
    name says.
    """
    options = SourceOptions(
        image_size=image_size,
        seed=seed,
        doodles_per_class=doodles_per_class,
        columns=tuple(columns),
        skip_bad_files=skip_bad_files,
        limits=limits,
        every_class=every_class,
        base_url=base_url,
    )
    if text == DOODLES:
        return _open_doodles(classes, cache_dir, options, progress)
    if text == QUICKDRAW:
        return _open_quickdraw(classes, cache_dir, options, progress)
    return open_directory(text, classes, cache_dir, options=options)


def plan_source(
    text: str, classes: Sequence[str] | None, cache_dir: Path, options: SourceOptions
) -> Source:
    """Return what `open_source` would, without fetching or drawing anything.

    Google's files are known from the catalogue. Of doodles that are not drawn yet the number is
    known, not the content: their digest is empty.
    """
    if text == QUICKDRAW:
        _check_quickdraw(classes, options)
        entries = [class_entry(name) for name in classes or ()]
        files = [(e.name, e.num_drawings, e.bytes, f"sha256:{e.sha256}") for e in entries]
    elif text == DOODLES:
        chosen = _check_doodles(classes, options)
        count = options.doodles_per_class
        root = doodles_dir(cache_dir, options.seed, count)
        if all((root / "numpy_bitmap" / f"{name}.npy").is_file() for name in chosen):
            return _open_doodles(chosen, cache_dir, options, None)
        files = [(name, count, count * BITMAP_SIZE**2, "") for name in chosen]
    else:
        return open_directory(text, classes, cache_dir, options=options)
    return Source(
        name=text,
        class_names=tuple(name for name, *_ in files),
        files=tuple(
            SourceFile(
                url="",
                format="npy",
                class_name=name,
                rows=rows,
                bytes=size,
                digest=digest,
                is_direct=True,
            )
            for name, rows, size, digest in files
        ),
        image_size=options.image_size,
        is_synthetic=text == DOODLES,
    )


def source_classes(text: str, options: SourceOptions) -> tuple[str, ...] | None:
    """Return the names of the classes that a source has, None if it cannot be asked."""
    if text == DOODLES:
        return SEED_CLASSES
    if text == QUICKDRAW:
        return tuple(entry.name for entry in catalogue())
    address = without_secrets(text)
    if not is_listable(address) and not address.endswith((".parquet", *ENDINGS)):
        return None  # of a web server
    place = find_place(address, None, options.image_size)
    if place.kind == "tfds":
        return prepared_names(place.directory)
    if place.kind == "parquet":
        return table_names(place.directory, options.limits)
    return class_names_in(place)


def open_directory(
    directory: str,
    classes: Sequence[str] | None,
    cache_dir: Path,
    *,
    name: str | None = None,
    options: SourceOptions | None = None,
) -> Source:
    """Return the source of a directory, local or remote, by what lies in it."""
    options = options or SourceOptions()
    source = _open_place(without_secrets(directory), classes, cache_dir, name=name, options=options)
    return dataclasses.replace(
        source, files=tuple(_completed(file, options) for file in source.files)
    )


def _completed(file: SourceFile, options: SourceOptions) -> SourceFile:
    """Return the file with what readers in other processes need to know."""
    joined = None if file.metadata is None else _completed(file.metadata, options)
    return dataclasses.replace(
        file,
        columns=options.columns,
        metadata=joined,
        limits=options.limits,
        secrets=secrets_of(file.url),
    )


def _open_place(
    address: str,
    classes: Sequence[str] | None,
    cache_dir: Path,
    *,
    name: str | None,
    options: SourceOptions,
) -> Source:
    place = find_place(address, classes, options.image_size)
    if place.kind == "tfds":
        return open_prepared(place.directory, cache_dir, name=name, limits=options.limits)
    # Manifests are public, and the same on every machine: no folder of this one.
    is_far = is_remote(place.directory)
    name = name or (printable(place.directory) if is_far else local_path(place.directory).name)
    if place.kind == "parquet":
        return open_tables(
            place.directory,
            cache_dir,
            name=name,
            skip_bad_files=options.skip_bad_files,
            limits=options.limits,
        )
    files = []
    bad = unread_beside(place) if classes is None or options.every_class else []
    if bad and not options.skip_bad_files:
        raise BadFileError(bad[0][1])
    found = find_class_files(place, classes)
    with hashing({url: size for _, url, size in found}, address):
        for class_name, url, size in found:
            try:
                file = open_class_file(
                    url,
                    size,
                    class_name,
                    cache_dir,
                    image_size=options.image_size,
                    limits=options.limits,
                )
                joined = bool(options.columns)
                files.append(join_strokes(file, cache_dir, options.limits) if joined else file)
            except BadFileError as error:
                if not options.skip_bad_files:
                    raise
                bad.append((url, str(error)))
    repairs = Counter(str(file.layout.get("repair", "")) for file in files)
    repairs.pop("", None)
    return Source(
        name=name,
        class_names=tuple(str(file.class_name) for file in files),
        files=tuple(files),
        image_size=options.image_size,
        bad_files=tuple(bad),
        repairs=dict(repairs),
    )


def _open_quickdraw(
    classes: Sequence[str] | None,
    cache_dir: Path,
    options: SourceOptions,
    progress: Progress | None,
) -> Source:
    _check_quickdraw(classes, options)
    directory = cache_dir / "quickdraw" / "numpy_bitmap"
    download_classes(
        list(classes or ()),
        directory,
        base_url=options.base_url,
        cache_dir=cache_dir,
        progress=progress,
    )
    return open_directory(str(directory), classes, cache_dir, name=QUICKDRAW)


def _check_quickdraw(classes: Sequence[str] | None, options: SourceOptions) -> None:
    if not classes:
        raise ValueError("name the classes to download: all 345 are 39.5 GB")
    if options.columns or options.image_size != BITMAP_SIZE:
        raise ValueError(
            "quickdraw downloads bitmaps only; for metadata or another size download the "
            "simplified drawings (.ndjson) and give their directory as source"
        )


def _open_doodles(
    classes: Sequence[str] | None,
    cache_dir: Path,
    options: SourceOptions,
    progress: Progress | None,
) -> Source:
    chosen = _check_doodles(classes, options)
    root = write_doodles(
        cache_dir,
        chosen,
        seed=options.seed,
        per_class=options.doodles_per_class,
        progress=progress,
    )
    kind = "numpy_bitmap" if options.image_size == BITMAP_SIZE else "simplified"
    source = open_directory(str(root / kind), chosen, cache_dir, name=DOODLES, options=options)
    return dataclasses.replace(source, is_synthetic=True)


def _check_doodles(classes: Sequence[str] | None, options: SourceOptions) -> tuple[str, ...]:
    chosen = tuple(classes or SEED_CLASSES)
    if unknown := [name for name in chosen if name not in SEED_CLASSES]:
        raise ValueError(
            f"doodles cannot draw {', '.join(unknown)}; it draws {', '.join(SEED_CLASSES)}. "
            "Use --source quickdraw or a directory for other classes"
        )
    if options.columns and options.image_size == BITMAP_SIZE:
        # Their bitmaps are not cairo's, so that the join by comparison would refuse them.
        raise ValueError("doodles have no metadata of Google's to join")
    return chosen
