"""A module of the model as torchrun's ranks on this machine, ended with us whatever happens.

The module prints progress as JSON lines and its result as a JSON object on the last line, as
`python -m model.evaluate --progress-json` does.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from flows.console import ProgressCallback
from flows.launcher import launch
from pipelines.watching import doing


def run_on_ranks(
    module: str, arguments: Sequence[str], *, num: int, progress: ProgressCallback
) -> dict[str, Any]:
    """Run `python -m module` as `num` ranks and return its result.

    Raises ChildError with the last words of the first rank that failed.
    """
    result: dict[str, Any] = {}

    def read(line: str) -> None:
        event = _event(line)
        if "stage" in event:
            progress(event["stage"], event["done"], event["total"], event["message"])
        elif event:
            result.update(event)

    command = [sys.executable, "-m", "model.parent", "model.agent", "--standalone"]
    command += [f"--nproc-per-node={num}", "-m", "model.parent", module, *arguments]
    with doing(module.rpartition(".")[2], f"waiting for {num} processes"):
        launch(command, on_line=read)
    return result


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
