"""Run stages in child processes, for flows that a worker runs unattended.

    flow: run_isolated("train", params) --> guard --> python -m flows.deployments.child train < JSON

The child reads its parameters from standard input, since every user of a machine can read command
lines. It never talks to Prefect: it writes progress as JSON lines on standard output, and as its
last line the result. A cancelled or killed flow ends it through the guard, its memory goes with
it, and a server that is down does not disturb it. While it works, leases in the store keep its
inputs from garbage collection (pipelines.store.held).
"""

import dataclasses
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from flows.stages.base import where
from flows.stages.registry import DEPLOYED
from pipelines.processes.progress import JsonProgress, JsonReader, Progress, no_progress
from pipelines.processes.supervise import ChildError, launch
from pipelines.store.artifacts import open_store
from pipelines.store.errors import FINAL_ERRORS, BusyError, FinalError
from pipelines.store.failures import failure_from_json, failure_to_json
from pipelines.store.leases import check_writable
from pipelines.store.manifest import Manifest


def run_isolated(
    name: str,
    params: Any,
    *,
    deadline_sec: float | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Run a stage in a child process and return its result.

    Raises the input errors of pipelines.store.failures, FinalError for failures that a retry
    repeats, DeadlineError after the deadline, else ChildError. No process is left in any case.
    """
    reader = JsonReader(progress)
    command = [sys.executable, "-m", "flows.deployments.child", name]
    given = json.dumps(dataclasses.asdict(params))
    try:
        launch(command, given=given, on_line=reader, deadline_sec=deadline_sec)
    except ChildError as error:
        if failure := reader.said.get("failure"):
            raise failure_from_json(failure, FinalError) from error
        raise
    return reader.said["result"]


def main(arguments: Sequence[str]) -> int:
    """Do one stage: its name; its parameters are JSON on standard input.

    SIGTERM raises SystemExit, so that training ranks have time to save. If this process exited
    immediately, the ranks would fail on a closed pipe before they saved.
    """
    from flows.terminal import showing

    signal.signal(signal.SIGTERM, _stop)
    stage = DEPLOYED[arguments[0]]
    params = from_json(stage.params, json.load(sys.stdin))
    try:
        with showing(JsonProgress(sys.stdout), arguments[0]):
            result = result_of(params, stage.run(params))
    except FINAL_ERRORS as error:
        _print({"failure": failure_to_json(error)})
        return 1
    _print({"result": result})
    return 0


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def result_of(params: Any, made: Manifest | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the result of a stage as a flow receives it."""
    if not isinstance(made, Manifest):
        return made
    if getattr(params, "out", ""):  # written to a folder of its own, not to the store
        return {"digest": made.digest}
    return published(params.store, made)


def published(url: str, manifest: Manifest) -> dict[str, Any]:
    """Return what a flow shows of an artifact; make it the latest of its name.

    Raises BusyError if it has been deleted.
    """
    store = open_store(url)
    check_writable(store)
    if store.reuse(manifest.kind, manifest.name, manifest.digest) is None:
        raise BusyError(f"{manifest.prefix} was deleted from {url} meanwhile: run it again")
    return {
        "kind": manifest.kind,
        "name": manifest.name,
        "digest": manifest.digest,
        "place": where(store, manifest),
        "files": [entry.path for entry in manifest.files][:200],
        "bytes": sum(entry.bytes for entry in manifest.files),
        "summary": _shown(manifest.summary),
    }


def from_json(params: type, raw: Mapping[str, Any]) -> Any:
    """Return the parameters that `dataclasses.asdict` and JSON made of them."""
    return params(**{name: _tuples(value) for name, value in raw.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _shown(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a summary that fit a page."""
    names = ("counts", "num_drawings", "dropped", "bits_per_dim_by_class", "page", "class_names")
    names += tuple(name for name in summary if name.endswith("bits_per_dim"))
    return {name: summary[name] for name in dict.fromkeys(names) if name in summary}


def _print(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    from flows.deployments.child import main as importable_main  # pyrefly: ignore

    sys.exit(importable_main(sys.argv[1:]))
