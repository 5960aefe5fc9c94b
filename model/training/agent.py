"""torchrun whose ranks can tell that it died: `python -m pipelines.processes.parent model.training.agent TORCHRUN_ARGS`.

Exits with 143 after SIGTERM to it or to a rank, where torchrun ends with a traceback and 1, with 2
for flags that cannot be or an endpoint without an address, and says in its last line what the first
rank to fail died of, or where the machines did not meet.
"""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousTimeoutError,
)
from torch.distributed.run import main as torchrun

from pipelines.processes.parent import BAD_INPUT, PARENT_PID

# How a rank ends that was told to stop, before it could handle that and after.
_STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun with these arguments; its ranks should be started by `pipelines.processes.parent`."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    os.environ[PARENT_PID] = str(os.getpid())
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        torchrun(given)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = _first(error.failures)
        sys.stderr.write(f"rank {rank} ended with code {failure.exitcode}: {_reason(failure)}\n")
        return 128 + signal.SIGTERM if failure.exitcode in _STOPPED else 1
    except (RendezvousError, dist.DistError) as error:
        if not (endpoint := _endpoint(given)):
            raise
        traceback.print_exc()
        return _explain_rendezvous(endpoint, error)
    except ValueError as error:  # of a flag: what ranks raise comes as ChildFailedError
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return BAD_INPUT
    return 0


def _endpoint(arguments: Sequence[str]) -> str:
    flag = "--rdzv-endpoint="
    return next((each.removeprefix(flag) for each in arguments if each.startswith(flag)), "")


def _explain_rendezvous(endpoint: str, error: Exception) -> int:
    """Say where the machines did not meet, and why as far as one knows; return the exit code."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.getaddrinfo((host or port).strip("[]"), None)
    except OSError as unknown:
        sys.stderr.write(f"--rdzv-endpoint {endpoint}: {unknown.strerror}\n")
        return BAD_INPUT
    if isinstance(error, RendezvousTimeoutError):
        reason = "not all of them have come in time"
    elif isinstance(error, RendezvousConnectionError | dist.DistNetworkError):
        reason = "nothing listens there; start the same command on the machine that it names"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(f"the machines did not meet at --rdzv-endpoint {endpoint}: {reason}\n")
    return 1


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
