"""A process that stands between us and a child, so that nothing of the child outlives us.

    parent --> guard (own session) --> command --> whatever it starts, in whatever session

    python flows/guard.py PARENT_PID GRACE_SEC DEADLINE_SEC COMMAND...      (deadline 0: none)

The guard is told to stop by SIGTERM, by the kernel when its parent dies, or by the deadline. It
passes SIGTERM to the command, waits for the grace period, and kills every process that is left
below it: as a subreaper it inherits orphans, also of other sessions, which no signal to a process
group reaches (torchrun starts its ranks so). It exits with the command's code, 128 + signal if
that was killed, and 124 after the deadline. Linux; elsewhere only the process group is ended.
Standard library only: it must start in no time.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

DEADLINE_CODE = 124
# What is left behind by a command that has ended gets this long to end as well.
ORPHAN_SEC = 2.0
_POLL_SEC = 0.2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_IS_LINUX = sys.platform.startswith("linux")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit code."""
    parent, grace_sec, deadline_sec = int(arguments[0]), float(arguments[1]), float(arguments[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS | {signal.SIGCHLD})
    end_with_parent()
    _ask_kernel(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM
    guard = Guard(grace_sec, deadline_sec or float("inf"))
    return guard.run(list(arguments[3:]))


class Guard:
    """The command, what is below it, and when it must end."""

    def __init__(self, grace_sec: float, deadline_sec: float) -> None:
        """Start the clock."""
        self._grace_sec = grace_sec
        self._deadline = time.monotonic() + deadline_sec
        self._kill_at = float("inf")
        self._code: int | None = None
        self._is_late = False

    def run(self, command: list[str]) -> int:
        """Run the command to its end, and what it leaves behind."""
        own = os.getpid()
        child = subprocess.Popen(command, preexec_fn=lambda: _prepare_child(own))
        try:
            while self._code is None:
                self._wait(child.pid)
        finally:
            self._end_descendants(child.pid)
        return DEADLINE_CODE if self._is_late else self._code

    def _wait(self, child: int) -> None:
        received = signal.sigtimedwait(_STOPS | {signal.SIGCHLD}, _POLL_SEC)
        self._reap(child)
        now = time.monotonic()
        if now >= self._deadline and not self._is_late:
            self._is_late = True
            self._stop(child)
        elif received is not None and received.si_signo in _STOPS:
            self._stop(child)
        if now >= self._kill_at:
            _signal_all(descendants(os.getpid()), signal.SIGKILL)

    def _stop(self, child: int) -> None:
        if self._kill_at == float("inf") and self._code is None:
            self._kill_at = time.monotonic() + self._grace_sec
            _signal_all([child], signal.SIGTERM)

    def _reap(self, child: int) -> None:
        """Collect the command's exit code, and the orphans that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == child:
                    code = os.waitstatus_to_exitcode(found[1])
                    self._code = code if code >= 0 else 128 - code

    def _end_descendants(self, child: int) -> None:
        """Let orphans end until the grace period is over, then kill them, and theirs."""
        limit = min(self._kill_at, time.monotonic() + self._grace_sec)
        if self._kill_at == float("inf"):
            limit = time.monotonic() + ORPHAN_SEC
            _signal_all(descendants(os.getpid()), signal.SIGTERM)
        _poll(lambda: self._is_alone(child), limit)
        # A process may fork while it is being killed, so look again until none is left.
        while not self._is_alone(child):
            _signal_all(descendants(os.getpid()), signal.SIGKILL)
            time.sleep(0.01)

    def _is_alone(self, child: int) -> bool:
        self._reap(child)
        return not descendants(os.getpid())


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, at any depth, zombies too; none where /proc is missing."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # The process may end at any moment. The name, in parentheses, may hold anything.
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process when its parent dies."""
    _ask_kernel(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prepare_child(guard: int) -> None:
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS | {signal.SIGCHLD})
    if os.getppid() != guard:
        os._exit(128 + signal.SIGTERM)


def _ask_kernel(request: int, value: int) -> None:
    if _IS_LINUX:
        ctypes.CDLL(None).prctl(request, value, 0, 0, 0)


def _signal_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _poll(is_done: Callable[[], bool], limit: float) -> None:
    while not is_done() and time.monotonic() < limit:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
