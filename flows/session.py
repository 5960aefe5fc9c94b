"""One run of a stage or the chain from the command line: Prefect's settings, logs, result."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.console import ShownFormatter, print_result
from flows.options import Common
from pipelines.errors import FullError
from pipelines.objects import NO_ROOM

# Prefect without a server of its own: no telemetry, and its log only with --debug. An error
# reaches the person once, from the command line.
QUIET_PREFECT = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
}


# A database of Prefect's server with its log, when it is new.
PREFECT_BYTES = 8 << 20


def check_prefect_home() -> None:
    """Raise FullError or ValueError where Prefect could not start: it would try for minutes."""
    from flows.stages import check_room

    folder = Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or "~/.prefect"))  # noqa: PTH111
    try:
        check_room(folder, PREFECT_BYTES)
    except OSError as error:
        kind = FullError if error.errno in NO_ROOM else ValueError
        raise kind(
            f"Prefect's home {folder} cannot be written ({error.strerror}): let the environment "
            f"variable PREFECT_HOME name a folder with {PREFECT_BYTES >> 20} MiB of room"
        ) from error


@contextmanager
def session(common: Common) -> Iterator[None]:
    """Keep the libraries quiet within the block."""
    for name, value in QUIET_PREFECT.items():
        if not (common.debug and "LOGGING" in name):
            os.environ.setdefault(name, value)
    # Beam logs through the root logger while it is imported; a handler keeps it from adding one.
    logging.basicConfig(level=logging.INFO if common.debug else logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(ShownFormatter(logging.BASIC_FORMAT))
    # What our own floors warn of (no torch.compile, damaged scratch, no lease to be had)
    # is for the person.
    for floor in ("model", "pipelines"):
        logging.getLogger(floor).setLevel(logging.WARNING)
    yield


def run_stage(
    common: Common,
    *,
    plan: Callable[[], Mapping[str, Any]],
    work: Callable[[], Mapping[str, Any]],
) -> None:
    """Print the plan for --dry-run, else do the work and print its result."""
    with session(common):
        result = plan() if common.dry_run else work()
    print_result(result, as_json=common.json)
