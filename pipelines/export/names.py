"""Paths of classes: safe, unique, the same for the same list of names, whatever the names are.

A class name comes from outside and never becomes a path as it is. Directories are slugs; files
of the numpy_bitmap layout have Google's name where the class is one of Google's 345.
"""

from collections.abc import Sequence

from pipelines.catalogue import tfds_id
from pipelines.schema import slug


def class_dirs(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a directory name a class, in the order of the labels.

    >>> class_dirs(["The Eiffel Tower", "sun", "Sun!", "../.."])
    ('the-eiffel-tower', 'sun', 'sun-2', 'class-3')
    """
    return _unique([_slug_or_number(name, label) for label, name in enumerate(class_names)])


def bitmap_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a file name without ending a class: Google's, or a slug for other classes.

    >>> bitmap_names(["The Eiffel Tower", "my class"])
    ('The Eiffel Tower', 'my-class')
    """
    names = [
        name if tfds_id(name) >= 0 else _slug_or_number(name, label)
        for label, name in enumerate(class_names)
    ]
    return _unique(names)


def _slug_or_number(name: str, label: int) -> str:
    try:
        return slug(name)
    except ValueError:
        return f"class-{label}"


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Number the later of names that are equal on a file system that ignores case."""
    taken: set[str] = set()
    unique = []
    for label, name in enumerate(names):
        chosen = name
        while chosen.lower() in taken:
            chosen = f"{chosen}-{label}"
        taken.add(chosen.lower())
        unique.append(chosen)
    return tuple(unique)
