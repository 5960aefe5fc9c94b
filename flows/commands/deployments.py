"""`sketchmill deploy | serve`: run schedules on a Prefect server or on this machine."""

import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common, Positive
from flows.terminal import print_result, session
from pipelines.store.manifest import slug

FILE = Path("infra/prefect.yaml")


def deploy(
    *,
    file: Path = FILE,
    pool_type: str = "process",
    cpu: int = 4,
    gpu: Positive = 1,
    source: str = "quickdraw",
    preset: str = "small",
    class_list: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    remove_class_list: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    common: Common = Common(),
) -> None:
    """Apply the file to the Prefect server at $PREFECT_API_URL; idempotent.

    Parameters
    ----------
    file
        The deployments.
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
    target = server.Target(
        file=file,
        pool_type=pool_type,
        pools={"cpu": cpu, "gpu": gpu},
        environment=_environment(common.store, source, preset),
    )
    if file.is_file():  # a missing file is reported after the server was found
        schedules.read_entries(file, target.environment)
    if common.dry_run:
        print_result({"file": str(file), "pools": dict(target.pools)}, as_json=common.json)
        return
    result = server.deploy(target)
    changed = [each for each in lists if server.set_class_list(each, lists[each], source)]
    for name in remove_class_list:
        server.remove_class_list(name)
    print_result(result | {"changed_class_lists": changed}, as_json=common.json)


def serve(
    *,
    file: Path = FILE,
    source: str = "quickdraw",
    preset: str = "small",
    class_list: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    common: Common = Common(),
) -> None:
    """Run the file's schedules on this machine, without a Prefect server, until interrupted.

    Schedules are Prefect's cron, interval or rrule. Schedules with `active: false` and those of
    paused deployments are skipped.

    Parameters
    ----------
    file
        The deployments.
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

        entries = schedules.read_entries(file, _environment(common.store, source, preset), lists)
        schedules.check_some(entries, file)
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
