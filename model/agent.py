"""torchrun whose ranks can tell that it died: `python -m model.parent model.agent TORCHRUN_ARGS`.

Exits with 143 after SIGTERM to it or to a rank, where torchrun ends with a traceback and 1, and
says in its last line what the first rank to fail died of.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main as torchrun

from model.parent import PARENT_PID

# How a rank ends that was told to stop, before it could handle that and after.
_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun with these arguments; its ranks should be started by `model.parent`."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    os.environ[PARENT_PID] = str(os.getpid())
    try:
        torchrun(list(sys.argv[1:] if arguments is None else arguments))
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = _first(error.failures)
        sys.stderr.write(f"rank {rank} ended with code {failure.exitcode}: {_reason(failure)}\n")
        return 128 + signal.SIGTERM if failure.exitcode in _STOPPED else 1
    return 0


def _first(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return the rank to blame: one that was killed, as the others fail of that, or the first."""
    rank = min(failures, key=lambda rank: (failures[rank].exitcode >= 0, failures[rank].timestamp))
    return rank, failures[rank]


def _reason(failure: object) -> str:
    """Return the exception of a rank: a JSON object with a traceback, or plain words."""
    message = getattr(failure, "message", "")
    if isinstance(message, dict):
        return str(message.get("message", message))
    try:
        return str(json.loads(message)["message"])
    except (ValueError, TypeError, KeyError):
        return str(message)
