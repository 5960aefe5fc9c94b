"""`sketchmill deploy | serve`: run schedules on a Prefect server or on this machine."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common, Positive
from flows.terminal import print_result, session, warn
from pipelines.store.manifest import slug
from pipelines.store.text_files import read_text

# The deployments of this package.
FILE = Path(str(files("flows.deployments") / "prefect.yaml"))


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When the file's schedules come.

    Parameters
    ----------
    nightly
        When the chain runs for every class list: five fields of cron.
    housekeeping
        When unneeded artifacts are deleted and a part of the store is verified: five fields of
        cron.
    timezone
        Time zone of both, such as Europe/Zurich. Default: this machine's.
    """

    nightly: str = "17 2 * * *"
    housekeeping: str = "47 5 * * *"
    timezone: str = ""


def deploy(
    *,
    file: Path | None = None,
    pool_type: str = "process",
    cpu: int = 4,
    gpu: Positive = 1,
    source: str = "quickdraw",
    preset: str = "small",
    class_list: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    remove_class_list: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    times: Times = Times(),
    common: Common = Common(),
) -> None:
    """Create or update the deployments on the Prefect server at $PREFECT_API_URL; idempotent.

    Parameters
    ----------
    file
        Deployments of your own in place of the package's, whose path --dry-run prints.
    pool_type
        Type of the work pools: process, docker or kubernetes.
    cpu
        Concurrency limit of the pool cpu; at least 3, since a chain and a bulk export may both
        wait there for a stage.
    gpu
        Concurrency limit of the pool gpu.
    source
        Of the scheduled chain: quickdraw, doodles, a path or a URL.
    preset
        Training preset of the scheduled chain.
    class_list
        NAME=FILE: set a class list of the chain; a changed list is built immediately. Repeatable.
    remove_class_list
        NAME: remove a class list; its artifacts stay in the store. Repeatable.
    """
    from flows.deployments import deploy as server
    from flows.deployments import serve as schedules

    if cpu < server.MIN_CPU:
        raise ValueError(
            f"--cpu must be {server.MIN_CPU} or more: a chain and a bulk export may both wait "
            "there while a stage runs"
        )
    lists = dict(_named(text) for text in class_list)
    variables = _variables(times, file)
    target = server.Target(
        file=file or FILE,
        pool_type=pool_type,
        pools={"cpu": cpu, "gpu": gpu},
        environment=_environment(common.store, source, preset) | variables,
    )
    if target.file.is_file():  # a missing file is reported after the server was found
        schedules.read_entries(target.file, target.environment)
    zone = {"timezone": variables[_variable("timezone")]}
    if common.dry_run:
        planned = {"file": str(target.file), "pools": dict(target.pools)}
        print_result(planned | zone, as_json=common.json)
        return
    result = server.deploy(target) | zone
    changed = [each for each in lists if server.set_class_list(each, lists[each], source)]
    for name in remove_class_list:
        server.remove_class_list(name)
    print_result(result | {"changed_class_lists": changed}, as_json=common.json)


def serve(
    *,
    file: Path | None = None,
    source: str = "quickdraw",
    preset: str = "small",
    class_list: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    times: Times = Times(),
    common: Common = Common(),
) -> None:
    """Run the schedules on this machine, without a Prefect server, until interrupted.

    Schedules of a file of your own are Prefect's cron, interval or rrule. Schedules with `active:
    false` and those of paused deployments are skipped.

    Parameters
    ----------
    file
        Deployments of your own in place of the package's.
    source
        Of the scheduled chain: quickdraw, doodles, a path or a URL.
    preset
        Training preset of the scheduled chain.
    class_list
        NAME=FILE: run the chain for this class list, read anew each time. Repeatable.
    """
    lists = dict(_named(text) for text in class_list)
    with session(common):  # before Prefect is imported, which reads the settings then
        from flows.deployments import serve as schedules

        values = _environment(common.store, source, preset) | _variables(times, file)
        entries = schedules.read_entries(file or FILE, values, lists)
        schedules.check_some(entries, file or FILE)
        now = datetime.now(UTC)
        print_result(
            {e.name: _times_of(e.name, entries, now) for e in entries}, as_json=common.json
        )
        if not common.dry_run:
            logging.getLogger(schedules.__name__).setLevel(logging.INFO)
            schedules.serve(entries, now=lambda: datetime.now(UTC))


def _times_of(name: str, entries: Sequence[Any], now: datetime) -> str:
    """Return the next times of the schedules of one name."""
    times = [entry.next_time(now) for entry in entries if entry.name == name]
    return ", ".join(each.isoformat() for each in times if each) or "never"


def _variables(times: Times, file: Path | None) -> dict[str, str]:
    """Return the variables of the file that say when its schedules come.

    Raises ValueError for an option that is no schedule or time zone, or that the file ignores.
    """
    from flows.deployments.schedules import machine_timezone

    text = read_text(file) if file and file.is_file() else None
    for name, value in asdict(times).items():
        if value != getattr(Times(), name):
            _check_time(name, value)
            if text is not None and f"${_variable(name)}" not in text:
                raise ValueError(
                    f"--{name}: {file} has times of its own: name {{{{ ${_variable(name)} }}}} "
                    "there, or leave the option out"
                )
    if not (zone := times.timezone or machine_timezone()):
        zone = "UTC"
        warn("this machine names no time zone: the schedules are in UTC; --timezone sets another")
    given = asdict(times) | {"timezone": zone}
    return {_variable(name): value for name, value in given.items()}


def _check_time(name: str, value: str) -> None:
    from flows.deployments.schedules import check_timezone, next_time_of

    if name == "timezone":
        check_timezone(value, f"--{name}")
    else:
        next_time_of({"cron": value}, f"--{name}")


def _variable(name: str) -> str:
    return f"SKETCHMILL_{name.upper()}"


def _environment(store: str, source: str, preset: str) -> dict[str, str]:
    """Return the variables of the file; paths are absolute, as workers run in another directory."""
    from pipelines.sources.kinds import NAMED

    place = source if source in NAMED else _absolute(source)
    values = {"STORE": _absolute(store), "SOURCE": place, "PRESET": preset}
    return dict(os.environ) | {f"SKETCHMILL_{name}": value for name, value in values.items()}


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().resolve())


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise ValueError(f"--class-list {text!r}: write NAME=FILE")
    return slug(name), Path(path)
