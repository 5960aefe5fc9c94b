"""Run the schedules of prefect.yaml on one machine, without a server or a worker.

Flows run in this process at their scheduled times; each stage is a child process. If several times
of a schedule pass while another flow runs, its flow runs once afterwards. A failed flow is logged
and runs again at its next scheduled time.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from prefect.flows import load_flow_from_entrypoint

from flows.deployments.schedules import NextTime, is_active, next_time_of
from flows.options import read_class_list
from pipelines.processes.progress import doing
from pipelines.store.text_files import read_text

_log = logging.getLogger(__name__)
_VARIABLE = re.compile(r"\{\{ *\$(\w+) *\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A deployment with one of its schedules."""

    name: str
    entrypoint: str
    next_time: NextTime
    parameters: Mapping[str, Any] = field(default_factory=dict)
    class_lists: Mapping[str, Path] = field(default_factory=dict)

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


# Modules that entry points of schedules named before.
_FORMER_MODULES = {
    "flows.deployed": "flows.deployments.flows",
    "flows.housekeeping": "flows.deployments.housekeeping",
}


def read_entries(
    file: Path,
    environment: Mapping[str, str],
    class_lists: Mapping[str, Path] | None = None,
) -> list[Entry]:
    """Return what the file schedules, with $VARIABLES replaced; chains run for the class lists.

    A deployment that is paused and a schedule that is not active are left out. Raises ValueError
    for a variable that is not set, a class that the source cannot have, or a schedule that Prefect
    would not understand.
    """
    raw = _filled(_read_yaml(file), environment)
    entries = [
        Entry(
            name=deployment["name"],
            entrypoint=_entrypoint(deployment["entrypoint"]),
            next_time=next_time,
            parameters={**(deployment.get("parameters") or {}), **(own or {})},
            class_lists=class_lists or {},
        )
        for deployment in _mappings(raw, "deployments", str(file))
        for next_time, own in _active_schedules(deployment, file)
    ]
    for entry in entries:
        entry.flow_parameters()  # a wrong list is refused now, not at night
    return entries


def check_some(entries: Sequence[Entry], file: Path) -> None:
    """Raise ValueError if nothing is scheduled."""
    if not entries:
        raise ValueError(
            f"{file} schedules nothing: no deployment has `schedules:`, or none of them is active"
        )


def serve(
    entries: Sequence[Entry],
    *,
    now: Callable[[], datetime],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run every entry at its times, sequentially, until interrupted or no time is left."""
    due = {index: entry.next_time(now()) for index, entry in enumerate(entries)}
    while coming := {index: moment for index, moment in due.items() if moment is not None}:
        first = min(coming, key=lambda index: coming[index])  # names need not differ
        when = f"waiting for {entries[first].name} at {coming[first].isoformat()}"
        with doing("serve", when, is_once=True):
            while (wait := (coming[first] - now()).total_seconds()) > 0:
                sleep(min(wait, 60.0))  # a machine that slept, or whose clock was set, is noticed
        with doing("serve", f"running {entries[first].name}", is_once=True):
            _run(entries[first])
        due[first] = entries[first].next_time(now())
    _log.info("no schedule comes again")


def _run(entry: Entry) -> None:
    _log.info("%s begins", entry.name)
    try:
        entry.run()
    except Exception:
        _log.exception("%s failed; it runs again at its next scheduled time", entry.name)
    else:
        _log.info("%s has completed", entry.name)


def _entrypoint(written: str) -> str:
    """Return the present entry point of a flow.

    >>> _entrypoint("flows.deployed.rebuild")
    'flows.deployments.flows.rebuild'
    """
    module, _, name = written.rpartition(".")
    return f"{_FORMER_MODULES.get(module, module)}.{name}" if module else written


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{file} is not valid YAML: it is nested too deeply") from error


def _mappings(raw: Any, key: str, subject: str) -> list[Mapping[str, Any]]:
    """Return a list of mappings under a key, none if it is absent."""
    found = (raw.get(key) or []) if isinstance(raw, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise ValueError(f"{subject}: expected `{key}:` with a list of mappings")
    return found


def _active_schedules(
    deployment: Mapping[str, Any], file: Path
) -> Iterator[tuple[NextTime, Mapping[str, Any] | None]]:
    """Yield when each schedule of a deployment comes that is to be run, and its parameters."""
    subject = f"{file}: deployment {deployment.get('name')!r}"
    if missing := [key for key in ("name", "entrypoint") if not deployment.get(key)]:
        raise ValueError(f"{subject} has no {missing[0]}")
    if "schedule" in deployment:
        raise ValueError(f"{subject}: write `schedules:` with a list in place of `schedule:`")
    for raw in _mappings(deployment, "schedules", subject):
        next_time = next_time_of(raw, f"{subject}, schedule")
        if is_active(raw, f"{subject}, schedule") and not deployment.get("paused"):
            yield next_time, raw.get("parameters")


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
