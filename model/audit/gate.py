"""The gate: limits on the numbers of an audit. A file that fails one is published nowhere.

[max]
near_copy_rate = 0.02
exact_duplicate_rate = 0.01
[min]
judge_agreement = 0.6
[class.min]              # for every class by itself
judge_agreement = 0.2
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.audit.filters import read_toml

_SIDES = ("max", "min")


class GateError(RuntimeError):
    """A number is beyond its limit; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A number's limit; `per_class` means that every class must keep to it."""

    name: str
    side: str
    value: float
    per_class: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A limit with what was found; `subject` is the class, or empty for the whole set."""

    name: str
    side: str
    limit: float
    found: float
    subject: str = ""

    @property
    def is_passed(self) -> bool:
        """Whether the number keeps to its limit; what is not a number does not."""
        return self.found <= self.limit if self.side == "max" else self.found >= self.limit

    def text(self) -> str:
        """Return the check in words."""
        where = f" of {self.subject}" if self.subject else ""
        bound = "at most" if self.side == "max" else "at least"
        return f"{self.name}{where} is {self.found:.6g}, {bound} {self.limit:.6g} is allowed"

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
        for subject, numbers in places.items():
            found = numbers.get(limit.name)
            if not isinstance(found, int | float):
                known = sorted(k for k, v in numbers.items() if isinstance(v, int | float))
                raise ValueError(
                    f"the gate limits {limit.name!r}, the audit has only {', '.join(known)}"
                )
            checks.append(
                Check(
                    name=limit.name,
                    side=limit.side,
                    limit=limit.value,
                    found=float(found),
                    subject=subject,
                )
            )
    return checks


def require_passed(checks: Sequence[Check]) -> None:
    """Raise GateError naming every number that is beyond its limit."""
    failed = [check.text() for check in checks if not check.is_passed]
    if failed:
        raise GateError("the gate is closed, nothing is published: " + "; ".join(failed))


def limits_to_json(limits: Sequence[Limit]) -> list[dict[str, Any]]:
    """Return the limits as JSON values, for a spec."""
    return [asdict(limit) for limit in limits]


def _limits(raw: Mapping[str, Any], source: str, *, per_class: bool) -> tuple[Limit, ...]:
    limits: list[Limit] = []
    for side, table in raw.items():
        if side == "class" and not per_class and isinstance(table, Mapping):
            limits += _limits(table, source, per_class=True)
            continue
        if side not in _SIDES or not isinstance(table, Mapping):
            raise ValueError(f"{source}: expected tables max, min and class, found {side!r}")
        for name, value in table.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{source}: the limit of {name} must be a number, found {value!r}")
            limits.append(Limit(name=name, side=side, value=float(value), per_class=per_class))
    return tuple(limits)
