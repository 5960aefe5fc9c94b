"""Guard processes, which end all processes of a piece of work when its parent ends.

    parent --> guard (own session) --> command --> its descendants, in any session

    python pipelines/processes/guard.py PARENT_PID GRACE_SEC DEADLINE_SEC COMMAND...      (deadline 0: none)

The guard stops on SIGTERM, when its parent dies (the kernel signals it), or at the deadline. It
sends SIGTERM to the command, waits for the grace period, and kills all remaining descendants: as a
subreaper it inherits orphans, also of other sessions, which no signal to a process group reaches
(torchrun starts its ranks so). It exits with the command's code, 128 + signal if that was killed,
and 124 after the deadline.

A command line forks itself into two of them and the work (`stand_before_work`):

    front (whom the terminal signals) --> guard (own session) --> work --> its descendants

Ctrl-C reaches the front alone, which prints one line; if the front is killed, the guard still ends
the rest. Ctrl-Z stops the work and its descendants.

Linux only: elsewhere `stand_before_work` does nothing, and `check_system` says what cannot work.
Standard library only, to start fast.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from types import FrameType

DEADLINE_CODE = 124
# What is left behind by a command that has ended gets this long to end as well.
ORPHAN_SEC = 2.0
# What a command line's work gets to save; its front waits a little longer, ten seconds in all.
WORK_SEC = 6.5
_FRONT_SEC = 8.0
# Upper limit of the grace period after the flow was killed: no process waits for its result.
_ORPHANED_SEC = 10.0
_SHOW_CURSOR = b"\r\n\x1b[?25h"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_IS_LINUX = sys.platform.startswith("linux")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit code."""
    import subprocess  # which the front of a command line does without

    parent, grace_sec, deadline_sec = int(arguments[0]), float(arguments[1]), float(arguments[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS | {signal.SIGCHLD})
    end_with_parent(parent)
    _ask_kernel(_PR_SET_CHILD_SUBREAPER, 1)
    own = os.getpid()
    guard = Guard(grace_sec, deadline_sec or float("inf"))
    child = subprocess.Popen(list(arguments[3:]), preexec_fn=lambda: _prepare_child(own))
    return guard.run(child.pid)


def check_system() -> None:
    """Raise ValueError unless commands can be guarded here."""
    if not _IS_LINUX:
        raise ValueError(
            "training, the whole chain and deployed stages start processes that Linux ends with "
            f"their parent, and this is {sys.platform}: use Linux, or a container of it"
        )


def stand_before_work(stop: Callable[[int, FrameType | None], None], said: str) -> None:
    """Return in a new process, for the work, with two guards before it; they never return.

    stop: handles the one signal, SIGINT, by which the work is told to end
    said: what the front prints when it was told to stop; it then ends with 128 + signal
    """
    all_heard = _STOPS | {signal.SIGCHLD}
    if _IS_LINUX:
        # A shell lets the commands it starts in the background, and nohup, ignore some.
        heard = {each for each in all_heard if signal.getsignal(each) != signal.SIG_IGN}
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        if guard := _fork():
            os._exit(_run_front(Guard(_FRONT_SEC, heard=heard), guard, said))
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, all_heard)
        if work := _fork():
            os._exit(_WorkGuard(WORK_SEC, told=signal.SIGINT).run(work))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, all_heard)


class Guard:
    """The command, what is below it, and when it must end."""

    _poll_sec = 0.2

    def __init__(
        self,
        grace_sec: float,
        deadline_sec: float = float("inf"),
        *,
        heard: Set[signal.Signals] = frozenset(_STOPS | {signal.SIGCHLD}),
        told: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Start the clock; `heard` are blocked signals to wait for, `told` stops the command."""
        self._grace_sec, self._told, self._heard = grace_sec, told, heard
        self._parent = os.getppid()
        self._deadline = time.monotonic() + deadline_sec
        self._kill_at = float("inf")
        self._code: int | None = None
        self._is_late = False
        self.received = 0

    def run(self, child: int) -> int:
        """Wait for the command's end, and end what it leaves behind; return its code."""
        try:
            while self._code is None:
                self._wait(child)
        finally:
            self._end_descendants(child)
        return DEADLINE_CODE if self._is_late else self._code

    def _wait(self, child: int) -> None:
        found = signal.sigtimedwait(self._heard, self._poll_sec)
        number = found.si_signo if found else 0
        self._reap(child)
        now = time.monotonic()
        if now >= self._deadline and not self._is_late:
            self._is_late = True
            self._stop(child)
        elif number in _STOPS:
            self.received = self.received or number
            self._stop(child)
        if now >= self._kill_at:
            _signal_all(descendants(os.getpid()), signal.SIGKILL)

    def _stop(self, child: int) -> None:
        if self._kill_at == float("inf") and self._code is None:
            is_orphaned = os.getppid() != self._parent
            grace_sec = min(self._grace_sec, _ORPHANED_SEC) if is_orphaned else self._grace_sec
            self._kill_at = time.monotonic() + grace_sec
            _signal_all([child], self._told)
            _signal_all(descendants(os.getpid()), signal.SIGCONT)

    def _reap(self, child: int) -> None:
        """Collect the command's exit code, and the orphans that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == child:
                    code = os.waitstatus_to_exitcode(found[1])
                    self._code = code if code >= 0 else 128 - code

    def _end_descendants(self, child: int) -> None:
        """Let orphans end until the grace period is over, then kill them, and theirs."""
        grace_sec = ORPHAN_SEC if self._kill_at == float("inf") else self._grace_sec
        limit = min(self._kill_at, time.monotonic() + grace_sec)
        _signal_all(descendants(os.getpid()), signal.SIGTERM)
        _poll(lambda: self._is_alone(child), limit)
        # A process may fork while it is being killed, so look again until none is left.
        while not self._is_alone(child):
            _signal_all(descendants(os.getpid()), signal.SIGKILL)
            time.sleep(0.01)

    def _is_alone(self, child: int) -> bool:
        self._reap(child)
        return not descendants(os.getpid())


class _WorkGuard(Guard):
    """Stands between the front and the work: while the front is stopped (Ctrl-Z), so is all below.

    The kernel notifies only the front's parent, so this polls.
    """

    _poll_sec = 0.05
    _is_paused = False

    def _wait(self, child: int) -> None:
        if _is_stopped(self._parent) != self._is_paused:
            self._is_paused = not self._is_paused
            number = signal.SIGSTOP if self._is_paused else signal.SIGCONT
            _signal_all(descendants(os.getpid()), number)
        super()._wait(child)


def _run_front(front: Guard, guard: int, said: str) -> int:
    """Wait for the guard's end; say one line and return 128 + signal if told to stop."""
    code = front.run(guard)
    if front.received:
        _say(said)
        return 128 + front.received
    if code == 128 + signal.SIGKILL:
        _say("killed (SIGKILL): the system does so when memory runs out")
    return code


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


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


def end_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to send SIGTERM to this process when its parent dies.

    Exits at once with 143 if that was `parent`, where the caller knows it, and is gone already.
    """
    _ask_kernel(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)


def _fork() -> int:
    """Fork a child that ends with us, whose orphans come to us; return its PID, 0 in it."""
    own = os.getpid()
    _ask_kernel(_PR_SET_CHILD_SUBREAPER, 1)
    if child := os.fork():
        return child
    end_with_parent(own)
    return 0


def _prepare_child(guard: int) -> None:
    end_with_parent(guard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS | {signal.SIGCHLD})


def _say(line: str) -> None:
    """Print a line on stderr, where the work may have left a bar and hidden the cursor."""
    with contextlib.suppress(OSError):
        os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + f"{line}\n".encode())


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
