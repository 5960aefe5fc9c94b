"""The schedules of infra/prefect.yaml on one machine, without a server or a worker.

Every flow runs here, in this process, when its time has come; its stages are processes of their
own as everywhere. A time that has passed while another flow ran is made up for once, not several
times. A flow that fails is logged, and the next time comes as if it had not.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from prefect._vendor.croniter import croniter
from prefect.flows import load_flow_from_entrypoint

from flows.choices import read_class_list

_log = logging.getLogger(__name__)
_VARIABLE = re.compile(r"\{\{ *\$(\w+) *\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A deployment with one of its schedules."""

    name: str
    entrypoint: str
    cron: str
    timezone: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    class_lists: Mapping[str, Path] = field(default_factory=dict)

    def next_time(self, after: datetime) -> datetime:
        """Return the first time of the schedule after a moment, in its time zone."""
        zone = ZoneInfo(self.timezone)
        # By the clock on the wall: with a zone croniter is an hour off where summer time begins.
        wall = after.astimezone(zone).replace(tzinfo=None)
        found = croniter(self.cron, wall).get_next(datetime).replace(tzinfo=zone)
        # An hour that comes twice has two times of the same name.
        return found if found.astimezone(UTC) > after else found.replace(fold=1)

    def run(self) -> None:
        """Run the flow here."""
        load_flow_from_entrypoint(self.entrypoint)(**self.flow_parameters())

    def flow_parameters(self) -> dict[str, Any]:
        """Return what the flow is run with.

        Stages are not placed on work pools, for there are none. Class lists are read anew, so a
        file that has changed is noticed.
        """
        parameters = {name: value for name, value in self.parameters.items() if name != "places"}
        if self.class_lists and "chain" in parameters:
            source = parameters["chain"].get("source", "")
            parameters["class_lists"] = {
                name: read_class_list(file, source) for name, file in self.class_lists.items()
            }
        return parameters


def read_entries(
    file: Path,
    environment: Mapping[str, str],
    class_lists: Mapping[str, Path] | None = None,
) -> list[Entry]:
    """Return what the file schedules, with $VARIABLES replaced; chains run for the class lists.

    Raises ValueError for a variable that is not set, or a class that the source cannot have.
    """
    raw = _filled(yaml.safe_load(file.read_text(encoding="utf-8")), environment)
    entries = [
        Entry(
            name=deployment["name"],
            entrypoint=deployment["entrypoint"],
            cron=schedule["cron"],
            timezone=schedule.get("timezone", "UTC"),
            parameters=deployment.get("parameters", {}),
            class_lists=class_lists or {},
        )
        for deployment in raw["deployments"]
        for schedule in deployment.get("schedules", ())
    ]
    for entry in entries:
        entry.flow_parameters()  # a wrong list is refused now, not at night
    return entries


def serve(
    entries: Sequence[Entry],
    *,
    now: Callable[[], datetime],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run every entry at its times, one after the other, until interrupted."""
    due = [entry.next_time(now()) for entry in entries]  # names need not differ
    while due:
        first = due.index(min(due))
        while (wait := (due[first] - now()).total_seconds()) > 0:
            sleep(min(wait, 60.0))  # a machine that slept, or whose clock was set, is noticed
        _run(entries[first])
        due[first] = entries[first].next_time(now())


def _run(entry: Entry) -> None:
    _log.info("%s begins", entry.name)
    try:
        entry.run()
    except Exception:
        _log.exception("%s failed; it is tried again at its next time", entry.name)
    else:
        _log.info("%s has completed", entry.name)


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, environment) for item in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: _lookup(found[1], environment), value)
    return value


def _lookup(name: str, environment: Mapping[str, str]) -> str:
    if name not in environment:
        raise ValueError(f"the schedules need ${name}, which is not set")
    return environment[name]
