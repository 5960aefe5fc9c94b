"""Finding the files of classes in a directory that somebody filled."""

from collections.abc import Collection, Sequence

from pipelines.catalogue import catalogue
from pipelines.sources.files import file_size, join_url, list_files

# What browsers and tools make of "full/numpy_bitmap/bee.npy".
_PREFIXES = tuple(
    f"full{mark}{kind}{mark}"
    for kind in ("numpy_bitmap", "simplified", "raw", "binary")
    for mark in ("_", "%2F")
)


def find_class_files(
    directory: str, classes: Sequence[str] | None, suffix: str
) -> list[tuple[str, str, int]]:
    """Return (class, address, bytes) of the files of these classes, in their order.

    None: all classes there, those of the catalogue first, in its order. Raises ValueError if a
    class has no file.
    """
    if directory.startswith(("http://", "https://")):
        return _probe(directory, classes, suffix)
    found = files_by_class(directory, suffix)
    names = classes or _ordered(found)
    if missing := [name for name in names if name not in found]:
        there = ", ".join(sorted(found)) or f"no {suffix} file"
        raise ValueError(
            f"{directory} has no {suffix} file of {', '.join(missing)}; it has {there}"
        )
    for name in names:
        if len(found[name]) > 1:
            raise ValueError(
                f"{directory} has {len(found[name])} files of class {name!r}: "
                f"{', '.join(found[name])}; leave one of them"
            )
    chosen = [(name, *next(iter(found[name].items()))) for name in names]
    return [(name, join_url(directory, file), size) for name, file, size in chosen]


def class_names_in(directory: str, suffix: str) -> tuple[str, ...]:
    """Return the classes that have files in a directory, those of the catalogue first."""
    return _ordered(files_by_class(directory, suffix))


def _ordered(found: Collection[str]) -> tuple[str, ...]:
    known = [entry.name for entry in catalogue() if entry.name in found]
    return (*known, *sorted(set(found) - set(known)))


def files_by_class(directory: str, suffix: str) -> dict[str, dict[str, int]]:
    """Return the names and sizes of the files of each class right in a directory."""
    found: dict[str, dict[str, int]] = {}
    for file, size in list_files(directory).items():
        if file.endswith(suffix):
            found.setdefault(class_of(file, suffix), {})[file] = size
    return found


def class_of(name: str, suffix: str) -> str:
    """Return the class that a file name means.

    >>> class_of("full_numpy_bitmap_sea turtle.npy", ".npy"), class_of("bee.npy", ".npy")
    ('sea turtle', 'bee')
    """
    stem = name[: -len(suffix)]
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    return stem.replace("%20", " ")


def _probe(
    directory: str, classes: Sequence[str] | None, suffix: str
) -> list[tuple[str, str, int]]:
    """Ask for each class's file where a listing is not to be had."""
    if classes is None:
        raise ValueError(f"{directory} cannot be listed: name the classes")
    found = []
    for name in classes:
        url = join_url(directory, name + suffix)
        size = file_size(url)
        if size is None:
            raise ValueError(f"{url} is not there")
        found.append((name, url, size))
    return found
