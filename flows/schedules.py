"""When a schedule of infra/prefect.yaml comes next: cron, interval or rrule, as Prefect has them.

    - cron: "17 2 * * *"              # day_or, timezone
    - interval: 3600                  # seconds, or ISO 8601 as P1D; anchor_date, timezone
    - rrule: "FREQ=WEEKLY;BYDAY=MO"   # timezone; the first day is the rule's own DTSTART

`active: false` is not run. By the clock on the wall go cron, rrule and intervals of whole days;
shorter intervals pass as they are when summer time begins. What is not known here is refused by
name: on a server Prefect would ignore it without a word.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from prefect._vendor.croniter import croniter
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from pydantic import ValidationError

# The first time after a moment; None if none comes any more.
NextTime = Callable[[datetime], datetime | None]

DAY = timedelta(days=1)
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
        return {"cron": _cron, "interval": _interval, "rrule": _rrule}[kinds[0]](fields)
    except ValidationError as error:
        first = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{subject}: {kinds[0]} {raw[kinds[0]]!r}: {first}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{subject}: {kinds[0]} {raw[kinds[0]]!r}: {error}") from error


def _cron(fields: Mapping[str, Any]) -> NextTime:
    found = CronSchedule(**fields)
    zone = ZoneInfo(found.timezone or "UTC")

    def times(wall: datetime) -> Iterator[datetime]:
        # By the clock on the wall: with a zone croniter is an hour off where summer time begins.
        yield from croniter(found.cron, wall, day_or=found.day_or).all_next(datetime)

    return lambda after: _first_after(after, times(_wall(after, zone)), zone)


def _interval(fields: Mapping[str, Any]) -> NextTime:
    found = IntervalSchedule(**fields)
    zone, step = ZoneInfo(found.timezone or "UTC"), found.interval
    if "anchor_date" in fields and not _has_offset(fields["anchor_date"]) and str(zone) != "UTC":
        raise ValueError("an anchor_date with a timezone needs an offset, 2026-01-31T09:00+01:00")
    anchor = datetime.fromisoformat(found.anchor_date.isoformat())
    if step % DAY:
        return lambda after: anchor + ((after - anchor) // step + 1) * step
    start = _wall(anchor, zone)

    def times(wall: datetime) -> Iterator[datetime]:
        number = (wall - start) // step
        while True:
            number += 1
            yield start + number * step

    return lambda after: _first_after(after, times(_wall(after, zone)), zone)


def _rrule(fields: Mapping[str, Any]) -> NextTime:
    found = RRuleSchedule(**fields)
    rule, zone = found.to_rrule(), ZoneInfo(found.timezone or "UTC")

    def next_time(after: datetime) -> datetime | None:
        following = rule.after(after.astimezone(UTC))
        return following and following.astimezone(zone)

    return next_time


def _first_after(after: datetime, walls: Iterable[datetime], zone: ZoneInfo) -> datetime:
    """Return the first time on the wall that is later; an hour that comes twice has two of each."""
    for wall in walls:
        for fold in (0, 1):
            if (found := wall.replace(tzinfo=zone, fold=fold)).astimezone(UTC) > after:
                return found
    raise AssertionError("cron and intervals have no end")


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _has_offset(anchor: Any) -> bool:
    """Return whether a time says its offset from UTC."""
    moment = anchor if isinstance(anchor, datetime) else datetime.fromisoformat(str(anchor))
    return moment.tzinfo is not None
