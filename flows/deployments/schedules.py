"""Compute the next time of a schedule in infra/prefect.yaml: cron, interval or rrule.

    - cron: "17 2 * * *"              # day_or, timezone
    - interval: 3600                  # seconds, or ISO 8601 as P1D; anchor_date, timezone
    - rrule: "FREQ=WEEKLY;BYDAY=MO"   # timezone; the first day is the rule's own DTSTART

Prefect's own schedules compute the times, so `sketchmill serve` and a server agree. A key that
Prefect would ignore silently is refused by name.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from pydantic import ValidationError

# The first time after a moment; None if none comes any more.
NextTime = Callable[[datetime], datetime | None]

Schedule = CronSchedule | IntervalSchedule | RRuleSchedule

_SCHEDULES = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}
_OF_KIND = {
    "cron": {"timezone", "day_or"},
    "interval": {"timezone", "anchor_date"},
    "rrule": {"timezone"},
}
_OF_ANY = {"active", "parameters", "slug", "replaces"}


def is_active(raw: Mapping[str, Any], subject: str) -> bool:
    """Return whether a schedule is to be run; raise ValueError if it does not say true or false."""
    found = raw.get("active")
    if found is not None and not isinstance(found, bool):
        raise ValueError(f"{subject}: active must be true or false, found {found!r}")
    return found is not False


def next_time_of(raw: Mapping[str, Any], subject: str) -> NextTime:
    """Return when a schedule comes next; `subject` is named in errors.

    Raises ValueError for a key or a value that there is not.
    """
    kinds = [kind for kind in _OF_KIND if raw.get(kind) is not None]
    if len(kinds) != 1:
        raise ValueError(f"{subject}: expected one of cron, interval and rrule, found {list(raw)}")
    known = {kinds[0]} | _OF_KIND[kinds[0]] | _OF_ANY
    if unknown := [str(key) for key in raw if key not in known]:
        raise ValueError(
            f"{subject}: {kinds[0]} knows no {', '.join(unknown)}; it knows "
            f"{', '.join(sorted(known))}"
        )
    fields = {kinds[0]: raw[kinds[0]]}
    fields |= {key: raw[key] for key in _OF_KIND[kinds[0]] if raw.get(key) is not None}
    try:
        _check_anchor(fields)
        return functools.partial(_first_after, _SCHEDULES[kinds[0]](**fields))
    except ValidationError as error:
        first = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{subject}: {kinds[0]} {raw[kinds[0]]!r}: {first}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{subject}: {kinds[0]} {raw[kinds[0]]!r}: {error}") from error


def _first_after(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first time of a schedule that is later."""
    # Prefect's own, on or after a time: whole seconds, of which the first may be this one.
    times = asyncio.run(schedule.get_dates(n=2, start=after))
    return next((each for each in times if each > after), None)


def _check_anchor(fields: Mapping[str, Any]) -> None:
    anchor, zone = fields.get("anchor_date"), fields.get("timezone", "UTC")
    if anchor is not None and not _has_offset(anchor) and zone != "UTC":
        raise ValueError("an anchor_date with a timezone needs an offset, 2026-01-31T09:00+01:00")


def _has_offset(anchor: Any) -> bool:
    """Return whether a time says its offset from UTC."""
    moment = anchor if isinstance(anchor, datetime) else datetime.fromisoformat(str(anchor))
    return moment.tzinfo is not None
