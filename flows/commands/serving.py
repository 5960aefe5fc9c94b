"""`sketchmill deploy | serve`: the schedules, on a Prefect server or on this machine alone."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.console import print_result
from flows.options import Common
from flows.session import session

ALL = Common()
FILE = Path("infra/prefect.yaml")


def deploy(
    *,
    file: Path = FILE,
    pool_type: str = "process",
    cpu: int = 4,
    gpu: int = 1,
    source: str = "quickdraw",
    preset: str = "small",
    class_list: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Bring the Prefect server at $PREFECT_API_URL to what the file describes; repeat at will.

    Parameters
    ----------
    file
        The deployments.
    pool_type
        Of the work pools: process, docker or kubernetes.
    cpu
        Runs at once in the pool cpu; two or more, because a flow waits for its stages.
    gpu
        Runs at once in the pool gpu.
    source
        Of the scheduled chain: quickdraw, doodles, a path or a URL.
    preset
        Training preset of the scheduled chain.
    class_list
        NAME=FILE: set a class list of the chain; a changed one is built at once. Repeatable.
    """
    from flows.deploy import Target, set_class_list
    from flows.deploy import deploy as deploy_all

    if cpu < 2:
        raise ValueError("--cpu must be 2 or more: a flow waits there while its stage runs")
    lists = dict(_named(text) for text in class_list)
    target = Target(
        file=file,
        pool_type=pool_type,
        pools={"cpu": cpu, "gpu": gpu},
        environment=_environment(common.store, source, preset),
    )
    if common.dry_run:
        print_result({"file": str(file), "pools": dict(target.pools)}, as_json=common.json)
        return
    result = deploy_all(target)
    changed = [name for name, path in lists.items() if set_class_list(name, path)]
    print_result(result | {"changed_class_lists": changed}, as_json=common.json)


def serve(
    *,
    file: Path = FILE,
    source: str = "quickdraw",
    preset: str = "small",
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Run the file's schedules on this machine, without a Prefect server, until interrupted.

    Parameters
    ----------
    file
        The deployments.
    source
        Of the scheduled chain: quickdraw, doodles, a path or a URL.
    preset
        Training preset of the scheduled chain.
    """
    from flows.serve import read_entries
    from flows.serve import serve as serve_entries

    entries = read_entries(file, _environment(common.store, source, preset))
    now = datetime.now(UTC)
    print_result({e.name: e.next_time(now).isoformat() for e in entries}, as_json=common.json)
    if not common.dry_run:
        with session(common):
            serve_entries(entries, now=lambda: datetime.now(UTC))


def _environment(store: str, source: str, preset: str) -> dict[str, str]:
    """Return the variables of the file; a worker has another working directory than we."""
    place = store if "://" in store else str(Path(store).resolve())
    values = {"STORE": place, "SOURCE": source, "PRESET": preset}
    return dict(os.environ) | {f"SKETCHMILL_{name}": value for name, value in values.items()}


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise ValueError(f"--class-list {text!r}: write NAME=FILE")
    return name, Path(path)
