"""Compute the next time of a schedule in the file of deployments: cron, interval or rrule.

    - cron: "17 2 * * *"              # five fields, or six with seconds last; day_or, timezone
    - interval: 3600                  # seconds, or ISO 8601 as P1D; anchor_date, timezone
    - rrule: "FREQ=WEEKLY;BYDAY=MO"   # timezone; the first day is the rule's own DTSTART

cronsim computes the times of cron, as Debian's cron has them on days when clocks change. Where
minute and hour are fixed, each time of the day comes once: one that the clock leaves out comes at
the end of the gap, one that the clock shows twice comes the first time. Where one of them begins
with *, times go by hours elapsed: an hour that is left out has none, one that is shown twice has
both. Interval and rrule are Prefect's own. A key that Prefect would ignore silently is refused by
name.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from prefect.server.schemas.schedules import IntervalSchedule, RRuleSchedule
from pydantic import ValidationError

# The first time after a moment; None if none comes any more.
NextTime = Callable[[datetime], datetime | None]

_SCHEDULES = {"interval": IntervalSchedule, "rrule": RRuleSchedule}
_OF_KIND = {
    "cron": {"timezone", "day_or"},
    "interval": {"timezone", "anchor_date"},
    "rrule": {"timezone"},
}
_OF_ANY = {"active", "parameters", "slug", "replaces"}
_LOCALTIME, _TIMEZONE = Path("/etc/localtime"), Path("/etc/timezone")


def machine_timezone() -> str:
    """Return the name of this machine's time zone, empty if it has none that is known by name.

    It is that of $TZ, else of the link /etc/localtime, else of /etc/timezone.
    """
    return next(filter(_is_zone, _machine_timezones()), "")


def check_timezone(name: str, subject: str) -> None:
    """Raise ValueError unless there is a time zone of this name."""
    if not _is_zone(name):
        raise ValueError(
            f"{subject}: unknown time zone {name!r}: expected a name such as Europe/Zurich or UTC"
        )


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
    if "timezone" in fields:
        check_timezone(fields["timezone"], subject)
    try:
        _check_anchor(fields)
        if kinds[0] == "cron":
            return _Cron(**fields).first_after
        return functools.partial(_first_after, _SCHEDULES[kinds[0]](**fields))
    except ValidationError as error:
        first = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{subject}: {kinds[0]} {raw[kinds[0]]!r}: {first}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{subject}: {kinds[0]} {raw[kinds[0]]!r}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Cron:
    """A schedule of cron; day_or: a day of the month or of the week is enough."""

    cron: str
    timezone: str = "UTC"
    day_or: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for what is no schedule of cron."""
        if not isinstance(self.cron, str) or not isinstance(self.day_or, bool):
            raise ValueError('expected text such as "17 2 * * *", and day_or true or false')
        try:
            self._times_after(datetime.now(ZoneInfo(self.timezone)))
        except CronSimError as error:
            raise ValueError(
                f"{str(error).lower()}: expected minute, hour, day, month and day of the week, "
                'such as "17 2 * * *"'
            ) from error

    def first_after(self, after: datetime) -> datetime | None:
        """Return the first time that is later, None if there is none in fifty years."""
        return _exact(next(self._times_after(after), None))

    def _times_after(self, after: datetime) -> Iterator[datetime]:
        # cronsim has the seconds first, Prefect last.
        *fields, last = self.cron.split() or [""]
        written = [last, *fields] if len(fields) == 5 else [*fields, last]
        times = CronSim(" ".join(written), after.astimezone(ZoneInfo(self.timezone)))
        times.day_and = times.day_and or not self.day_or
        return times


def _first_after(schedule: IntervalSchedule | RRuleSchedule, after: datetime) -> datetime | None:
    """Return the first time of a schedule that is later."""
    # Prefect's own, on or after a time: whole seconds, of which the first may be this one.
    times = asyncio.run(schedule.get_dates(n=2, start=after))
    return _exact(next((each for each in times if each > after), None))


def _exact(moment: datetime | None) -> datetime | None:
    """Return a moment with its offset: times of one zone are compared by the clock on the wall."""
    offset = moment.utcoffset() if moment else None
    return moment.astimezone(timezone(offset)) if moment and offset is not None else moment


def _check_anchor(fields: Mapping[str, Any]) -> None:
    anchor, zone = fields.get("anchor_date"), fields.get("timezone", "UTC")
    if anchor is not None and not _has_offset(anchor) and zone != "UTC":
        raise ValueError("an anchor_date with a timezone needs an offset, 2026-01-31T09:00+01:00")


def _has_offset(anchor: Any) -> bool:
    """Return whether a time says its offset from UTC."""
    moment = anchor if isinstance(anchor, datetime) else datetime.fromisoformat(str(anchor))
    return moment.tzinfo is not None


def _machine_timezones() -> Iterator[str]:
    """Yield what this machine says of its time zone, the most important first."""
    if "TZ" in os.environ:
        yield os.environ["TZ"].removeprefix(":")
        return
    if _LOCALTIME.is_symlink():
        yield str(_LOCALTIME.resolve()).partition("zoneinfo/")[2]
    if _TIMEZONE.is_file():
        yield _TIMEZONE.read_text(errors="replace").strip()


def _is_zone(name: Any) -> bool:
    try:
        return bool(name) and ZoneInfo(name) is not None
    except (KeyError, ValueError, TypeError, OSError):  # unknown, not a name, a folder of names
        return False
