"""What kind of files a directory holds, seen from their names.

    numpy_bitmap .npy    simplified, raw .ndjson    binary .bin    parquet    tfds

A directory that has `numpy_bitmap`, `simplified`, `raw` or `binary` below it, as Google's bucket
has, is entered: bitmaps first, strokes where another size than 28 is asked for. Over http(s),
where nothing is listed, the first class is asked for under each ending.
"""

from collections.abc import Sequence

from pipelines.sources.files import (
    file_size,
    is_listable,
    is_remote,
    join_url,
    list_files,
    list_tree,
    local_path,
)

BITMAP_SIZE = 28
# The endings of a directory's files, and where Google keeps them.
SUFFIXES = {"numpy_bitmap": ".npy", "simplified": ".ndjson", "raw": ".ndjson", "binary": ".bin"}

_PREPARED = {"dataset_info.json", "features.json"}


def enter_directory(
    directory: str, classes: Sequence[str] | None, image_size: int
) -> tuple[str, str]:
    """Return the kind of files and the directory that holds them, `directory` or one below.

    Raises ValueError if there are none.
    """
    order = list(SUFFIXES) if image_size == BITMAP_SIZE else [*list(SUFFIXES)[1:], "numpy_bitmap"]
    if directory.endswith(".parquet") and file_size(directory) is not None:
        return "parquet", directory
    if not is_listable(directory):
        return _ask(directory, classes, order), directory
    if not is_remote(directory) and not local_path(directory).is_dir():
        raise ValueError(
            f"source {directory!r} is no directory (and neither doodles nor quickdraw)"
        )
    if found := _look(directory, order):
        return found
    if list_tree(directory, ".parquet"):
        return "parquet", directory
    raise ValueError(
        f"{directory} has no .npy, .ndjson, .bin or .parquet files and is no TFDS dataset"
    )


def _look(directory: str, order: Sequence[str]) -> tuple[str, str] | None:
    """Return kind and place of what lies right in a directory, or where Google would keep it."""
    names = list(list_files(directory))
    if set(names) >= _PREPARED:
        if is_remote(directory):
            raise ValueError(f"{directory}: what TFDS prepared is read from a local copy of it")
        return "tfds", directory
    if kind := _kind_of(names, order):
        return kind, directory
    for place in (join_url(directory, kind) for kind in order):
        if kind := _kind_of(list(list_files(place)), order):
            return kind, place
    return None


def _kind_of(names: Sequence[str], order: Sequence[str]) -> str | None:
    return next(
        (kind for kind in order if any(name.endswith(SUFFIXES[kind]) for name in names)), None
    )


def _ask(directory: str, classes: Sequence[str] | None, order: Sequence[str]) -> str:
    last = directory.rstrip("/").rsplit("/", 1)[-1]
    if last in SUFFIXES:
        return last
    if not classes:
        raise ValueError(f"{directory} cannot be listed: name the classes to read from it")
    for kind in order:
        if file_size(join_url(directory, classes[0] + SUFFIXES[kind])) is not None:
            return kind
    endings = ", ".join(dict.fromkeys(SUFFIXES[kind] for kind in order))
    raise ValueError(
        f"{directory} has no file of {classes[0]} that ends in {endings}; over http(s) Parquet is "
        "read from the address of one file"
    )
