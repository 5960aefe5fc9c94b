"""Beam's worker processes on this machine: notice when one is killed.

FnApiRunner with several processes waits for ever for a worker that is gone while it has a bundle of
a graph that gives nothing back, as ours. The thread that waits for the process fails, unheard.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pipelines.processes.guard import descendants
from pipelines.store.errors import EngineError

# What the thread of a worker process raises.
_ENDED = "Worker subprocess exited with return code"
# Of the threads that talk to it.
_CUT_OFF = "RpcError"
_WAITING = ("run_worker", "read_grpc_client_inputs", "beam_control_read")
_WORKER = b"apache_beam.runners.worker.sdk_worker_main"
_LOOK_SEC = 0.5
# When the work is over, workers may end in any way.
_GRACE_SEC = 3.0
Returned = TypeVar("Returned")


def run_guarded(run: Callable[[], Returned]) -> Returned:
    """Return what `run` returns, in another thread; raise EngineError if a worker process dies.

    Whatever else ends the wait, such as Ctrl-C, ends the worker processes.
    """
    results: list[Returned] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(run())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="beam", daemon=True)
    with _noticing_deaths() as has_died:
        try:
            thread.start()
            while thread.is_alive() and not has_died.is_set():
                thread.join(_LOOK_SEC)
            thread.join(_GRACE_SEC)
        finally:
            if not results:
                _end_workers()
    if results:
        return results[0]
    if has_died.is_set():
        raise EngineError(
            "a worker process was killed, which the system does when memory runs out: the same "
            "command goes on with what is left; fewer --workers need less memory"
        )
    raise errors[0]


@contextlib.contextmanager
def _noticing_deaths() -> Iterator[threading.Event]:
    """Yield an event that is set when the thread of a worker process fails."""
    has_died, before = threading.Event(), threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if _ENDED in str(failed.exc_value):
            has_died.set()
        elif getattr(failed.exc_type, "__name__", "") != _CUT_OFF:
            before(failed)

    threading.excepthook = hook
    try:
        yield has_died
    finally:
        threading.excepthook = before


def _end_workers() -> None:
    """Kill the worker processes, and give the threads that talk to them time to end."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if _WORKER in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
    limit = time.monotonic() + _GRACE_SEC
    for thread in threading.enumerate():
        if thread.name in _WAITING:
            thread.join(max(limit - time.monotonic(), 0))
