"""Run a command and end its whole process tree when it exits, times out or loses its parent.

    flow --> guard (pipelines/processes/guard.py, a session of its own) --> command --> torchrun,
    Beam, ranks

When the flow ends in any way (an exception, a cancellation, SIGKILL), the guard sends SIGTERM to
the command, gives it the grace period to save, and kills the remaining processes. Cancelling a
Prefect flow alone stops neither torchrun's ranks nor what has another session. Children never talk
to Prefect, so a server that is down does not disturb them.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from pipelines.processes import guard

# Within the 30 s after which a Prefect worker kills what it has started.
GRACE_SEC = 20.0
# A variable that names the launch in all processes below it.
MARK = "SKETCHMILL_LAUNCH"
# A command that was told to stop ends so.
STOPPED_CODE = 128 + signal.SIGTERM
_TAIL_LINES = 30
_POLL_SEC = 0.5
# What the guard needs beyond the grace period to kill and to notice.
_MARGIN_SEC = 5.0

_PARENT = os.getppid()
_running: set[subprocess.Popen] = set()
_lock = threading.Lock()


class ChildError(RuntimeError):
    """A command failed; `code` is its exit code, `tail` its last lines, as in the message."""

    def __init__(self, command: Sequence[str], code: int, tail: str) -> None:
        """Say what failed and how."""
        super().__init__(f"{Path(command[0]).name} ended with exit code {code}:\n{tail}")
        self.code, self.tail = code, tail


class DeadlineError(ChildError):
    """A command was stopped because its time was up."""


def launch(
    command: Sequence[str],
    *,
    given: str = "",
    on_line: Callable[[str], object] = str,
    env: Mapping[str, str] | None = None,
    deadline_sec: float | None = None,
    grace_sec: float = GRACE_SEC,
) -> None:
    """Run a command, give each line of its standard output to `on_line`, and wait for its end.

    given        its standard input: what no list of processes may show
    env          variables to set besides those of this process
    deadline_sec seconds after which the command is stopped
    grace_sec    seconds from SIGTERM to SIGKILL

    Raises ValueError where commands cannot be guarded, ChildError if it does not exit with 0, DeadlineError if its time was up. On any other
    way out of here its processes are stopped as well.
    """
    guard.check_system()
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as stdin:
        stdin.write(given.encode())
        stdin.seek(0)
        limits = (grace_sec, deadline_sec or 0.0)
        with _guarded(command, env or {}, limits, stdin, errors) as child:
            for line in _lines(child):
                on_line(line)
            code = child.wait()
        if code == guard.DEADLINE_CODE:
            raise DeadlineError(command, code, f"stopped after {deadline_sec:g} s\n{_tail(errors)}")
        if code:
            raise ChildError(command, code if code > 0 else 128 - code, _tail(errors))


@contextlib.contextmanager
def stopping_children() -> Iterator[None]:
    """Stop the commands of all threads when the block is left by an exception.

    A cancellation raises in the main thread alone; threads would wait for their commands.
    """
    try:
        yield
    except BaseException:
        stop_all()
        raise


def end_with_worker() -> None:
    """Let a flow run that a Prefect worker has started get SIGTERM when the worker dies.

    It would go on without anybody to cancel it. Elsewhere, and not on Linux, nothing happens; nor
    in a thread, since the flow's body has asked: the kernel sends a signal for each thread that
    has, and the second would interrupt Prefect while it reports that the run has crashed.
    """
    if "PREFECT__FLOW_RUN_ID" not in os.environ:
        return
    if threading.current_thread() is threading.main_thread():
        guard.end_with_parent()
        if os.getppid() != _PARENT:  # it has died before we asked
            signal.raise_signal(signal.SIGTERM)


def stop_all() -> None:
    """Tell the guards of all running commands to stop; `launch` waits for them."""
    with _lock:
        running = list(_running)
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def _guarded(
    command: Sequence[str],
    env: Mapping[str, str],
    limits: tuple[float, float],
    stdin: BinaryIO,
    errors: BinaryIO,
) -> Iterator[subprocess.Popen[bytes]]:
    mark = f"{MARK}={uuid.uuid4().hex}"
    guarding = [str(os.getpid()), *(f"{limit:g}" for limit in limits)]
    child = subprocess.Popen(
        [sys.executable, guard.__file__, *guarding, *command],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | dict(env) | dict([mark.split("=")]),
        start_new_session=True,
    )
    with _lock:
        _running.add(child)
    try:
        yield child
    finally:
        _end(child, limits[0], mark)
        with _lock:
            _running.discard(child)


def _lines(child: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield lines until all ends of the pipe are closed, or the guard has ended without that."""
    assert child.stdout is not None
    pipe, rest = child.stdout.fileno(), b""
    while True:
        if not select.select([pipe], [], [], _POLL_SEC)[0]:
            if child.poll() is not None:
                break
            continue
        if not (chunk := os.read(pipe, 1 << 16)):
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")


def _end(child: subprocess.Popen[bytes], grace_sec: float, mark: str) -> None:
    """Wait for the guard to end everything; if it could not, kill what carries the mark."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_sec + _MARGIN_SEC)
    for pid in _marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _marked(mark: str) -> list[int]:
    """Return the processes that were started with a variable, orphans included."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _tail(errors: BinaryIO) -> str:
    errors.seek(0)
    lines = deque((line.decode(errors="replace") for line in errors), maxlen=_TAIL_LINES)
    return "".join(lines).strip()
