"""The gate: limits on an audit's numbers that must hold before anything is exported.

The numbers are those of the accepted drawings. A class of which none was drawn or accepted has
no numbers, and fails every limit on classes.

[max]
near_copy_rate = 0.02
exact_duplicate_rate = 0.01
[min]
judge_agreement = 0.6
[class.min]              # for every class by itself
judge_agreement = 0.2
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.audit.filters import read_toml
from pipelines.store.errors import FinalError

_SIDES = ("max", "min")


class GateError(FinalError):
    """A number is beyond its limit; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Limit on a number; `per_class` applies it to every class."""

    name: str
    side: str
    value: float
    per_class: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A limit with what was found; `subject` is the class, or empty for the whole set.

    found is None if there was nothing to measure: no drawing, or none to compare it with.
    """

    name: str
    side: str
    limit: float
    found: float | None
    subject: str = ""

    @property
    def is_passed(self) -> bool:
        """Whether the number is within its limit; False if it is not a number."""
        if self.found is None:
            return False
        return self.found <= self.limit if self.side == "max" else self.found >= self.limit

    def text(self) -> str:
        """Return the check in words."""
        where = f" of {self.subject}" if self.subject else ""
        bound = "at most" if self.side == "max" else "at least"
        found = "not to be had: no drawings" if self.found is None else f"{self.found:.6g}"
        return f"{self.name}{where} is {found}, {bound} {self.limit:.6g} is allowed"

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return asdict(self) | {"is_passed": self.is_passed}


def read_gate(path: Path) -> tuple[Limit, ...]:
    """Read a gate file; raise ValueError for anything but tables of numbers."""
    return gate_from(read_toml(path), source=str(path))


def gate_from(raw: Mapping[str, Any], *, source: str) -> tuple[Limit, ...]:
    """Return the limits of a mapping; `source` is named in errors."""
    limits = _limits(raw, source, per_class=False)
    if not limits:
        raise ValueError(f"{source} has no limits: write [max], [min], [class.max] or [class.min]")
    return limits


def check_gate(limits: Sequence[Limit], audit: Mapping[str, Any]) -> list[Check]:
    """Compare an audit with its limits; raise ValueError for a number that it does not have."""
    checks = []
    for limit in limits:
        places = audit["classes"] if limit.per_class else {"": audit}
        _check_known(limit, places)
        checks += [
            Check(
                name=limit.name,
                side=limit.side,
                limit=limit.value,
                found=_number(numbers, limit.name),
                subject=subject,
            )
            for subject, numbers in places.items()
        ]
    return checks


def require_passed(checks: Sequence[Check], *, consequence: str = "nothing is published") -> None:
    """Raise GateError naming every number that is beyond its limit, and what follows from it."""
    failed = [check.text() for check in checks if not check.is_passed]
    if failed:
        raise GateError(f"the gate is closed, {consequence}: " + "; ".join(failed))


def limits_to_json(limits: Sequence[Limit]) -> list[dict[str, Any]]:
    """Return the limits as JSON values, for a spec."""
    return [asdict(limit) for limit in limits]


def _check_known(limit: Limit, places: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError for a number that no place has, unless there is nothing to measure."""
    if any(_number(numbers, limit.name) is not None for numbers in places.values()):
        return
    measured = [numbers for numbers in places.values() if numbers.get("num_drawings", 1)]
    if measured:
        known = sorted(name for name in measured[0] if _number(measured[0], name) is not None)
        raise ValueError(f"the gate limits {limit.name!r}, the audit has only {', '.join(known)}")


def _number(numbers: Mapping[str, Any], name: str) -> float | None:
    """Return a number that can be compared and written as JSON, else None."""
    found = numbers.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def _limits(raw: Mapping[str, Any], source: str, *, per_class: bool) -> tuple[Limit, ...]:
    limits: list[Limit] = []
    for side, table in raw.items():
        if side == "class" and not per_class and isinstance(table, Mapping):
            limits += _limits(table, source, per_class=True)
            continue
        if side not in _SIDES or not isinstance(table, Mapping):
            raise ValueError(f"{source}: expected tables max, min and class, found {side!r}")
        for name, value in table.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise ValueError(f"{source}: the limit of {name} must be a number, found {value!r}")
            limits.append(Limit(name=name, side=side, value=float(value), per_class=per_class))
    return tuple(limits)
