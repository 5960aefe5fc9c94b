"""Labels of files whose every row says its class: by a number, a name, or both.

    the source or --label-names has the names    a number is a position in them, a name one of them
    nothing has them, all rows say a name        these names, in the order of the numbers beside
                                                 them, or sorted
    nothing has them, a row says a number alone  refused

A number beside a name must not contradict it. Names are in NFC.
"""

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipelines.sources.base import BadFileError
from pipelines.store.printable import describe_value

# A label has two bytes.
MAX_CLASSES = 1 << 15
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class RowLabel:
    """What a row says of its class; at least one of the two."""

    number: int | None
    name: str | None


class Seen:
    """The different labels of one file, as many as there may be classes."""

    def __init__(self, url: str) -> None:
        self.url, self.labels = url, set[RowLabel]()

    def add(self, label: RowLabel) -> None:
        """Add a row's; raise BadFileError for one too many."""
        self.labels.add(label)
        if len(self.labels) > MAX_CLASSES:
            raise BadFileError(
                f"{self.url} has more than {MAX_CLASSES} different labels, such as "
                f"{_said(label)}: expected classes, not captions or keys"
            )

    def pairs(self) -> list[list[int | str | None]]:
        """Return number and name of each, for an index."""
        return sorted(([x.number, x.name] for x in self.labels), key=str)


class LabelNames:
    """The names of a source's classes, and what the label of a row is."""

    def __init__(self, names: Sequence[str], *, are_positions: bool) -> None:
        """Take the names; `are_positions` says whether numbers count them."""
        self.names, self.are_positions = names, are_positions
        self.positions = {name: place for place, name in enumerate(names)}

    def position(self, label: RowLabel) -> int:
        """Return the position of a row's class; raise ValueError that says why it has none."""
        by_name = None if label.name is None else self.positions.get(label.name)
        if label.name is not None and by_name is None:
            raise ValueError(f"{_said(label)}, which is none of the {len(self.names)} classes")
        if not self.are_positions:
            if by_name is None:
                raise ValueError(f"{_said(label)}, which has no name")
            return by_name
        if label.number is None:
            assert by_name is not None
            return by_name
        if not 0 <= label.number < len(self.names):
            raise ValueError(f"the label is {label.number}, expected 0 to {len(self.names) - 1}")
        if by_name not in (None, label.number):
            raise ValueError(
                f"{_said(label)}, and {label.number} is {describe_value(self.names[label.number])}"
            )
        return label.number


def row_label(numbers: Iterable[int], names: Iterable[str], where: str) -> RowLabel:
    """Return what a row says in one or several places.

    Raises ValueError if they differ or there is nothing.
    """
    found_numbers = list(dict.fromkeys(numbers))
    found_names = list(dict.fromkeys(unicodedata.normalize("NFC", name) for name in names))
    for found in (found_numbers, found_names):
        if len(found) > 1:
            one, two = map(describe_value, found[:2])
            raise ValueError(f"{where} says both {one} and {two} of the class")
    if not found_numbers and not found_names:
        raise ValueError(f"{where} says no class")
    return RowLabel(next(iter(found_numbers), None), next(iter(found_names), None))


def names_of(where: str, labels: Collection[RowLabel], hint: str) -> tuple[str, ...]:
    """Return the names of the classes that rows name themselves.

    hint  how this kind of file can name its labels

    Raises BadFileError if some rows say a number alone, or numbers and names contradict each other.
    """
    if bare := sorted(x.number for x in labels if x.name is None and x.number is not None):
        shown = ", ".join(map(str, bare[:_SHOWN])) + (", ..." if len(bare) > _SHOWN else "")
        raise BadFileError(
            f"{where} has the labels {shown}, which nothing names: give their names in the order "
            f"of the numbers, from 0 on, with --label-names a,b,c or --label-names @FILE; {hint}"
        )
    numbers: dict[str, int] = {}
    by_number: dict[int, str] = {}
    for label in sorted(labels, key=lambda x: (x.number is None, x.number or 0, x.name or "")):
        if label.name is None or label.number is None:
            continue
        other = by_number.setdefault(label.number, label.name)
        if other != label.name:
            both = f"{describe_value(other)} and {describe_value(label.name)}"
            raise BadFileError(f"{where} gives the number {label.number} to both {both}")
        number = numbers.setdefault(label.name, label.number)
        if number != label.number:
            both = f"{number} and {label.number}"
            raise BadFileError(f"{where} gives {describe_value(label.name)} both numbers {both}")
    names = {str(label.name) for label in labels}
    if names == set(numbers):
        return tuple(sorted(names, key=numbers.__getitem__))
    return tuple(sorted(names))


def check_given(where: str, own: Sequence[str], given: Sequence[str]) -> None:
    """Raise ValueError if a source has names of its own and others are given."""
    if own and given and list(own) != list(given):
        raise ValueError(
            f"{where} names its labels itself, {', '.join(own[:_SHOWN])}: leave --label-names out"
        )


def _said(label: RowLabel) -> str:
    name = "" if label.name is None else f"the class is {describe_value(label.name)}"
    number = "" if label.number is None else f"the label is {label.number}"
    return " and ".join(filter(None, [name, number]))
