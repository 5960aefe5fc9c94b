"""torchrun whose ranks can tell that it died: `python -m model.parent model.agent TORCHRUN_ARGS`.

Exits with 143 after SIGTERM to it or to a rank, where torchrun ends with a traceback and 1, and
says in one line what the first rank to fail died of.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from model.parent import PARENT_PID


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun with these arguments; its ranks should be started by `model.parent`."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    os.environ[PARENT_PID] = str(os.getpid())
    try:
        torchrun(list(sys.argv[1:] if arguments is None else arguments))
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.stderr.write(f"rank {rank} ended with code {failure.exitcode}: {_reason(failure)}\n")
        return 128 + signal.SIGTERM if failure.exitcode == 128 + signal.SIGTERM else 1
    return 0


def _reason(failure: object) -> str:
    """Return the exception of a rank: a JSON object with a traceback, or plain words."""
    message = getattr(failure, "message", "")
    if isinstance(message, dict):
        return str(message.get("message", message))
    try:
        return str(json.loads(message)["message"])
    except (ValueError, TypeError, KeyError):
        return str(message)
