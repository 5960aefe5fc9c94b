"""Nothing that a launched command starts outlives it, its parent or its deadline."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.cli import run_command_line
from pipelines.processes import guard
from pipelines.processes.supervise import (
    ChildError,
    DeadlineError,
    launch,
    stop_all,
    stopping_children,
)

# Names a tree of processes: each says so in its environment, which /proc shows.
MARK = "SKETCHMILL_TEST_TREE"

# A command like torchrun: its worker has a session of its own and ignores SIGTERM.
AGENT = """
import signal, subprocess, sys, time
worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
time.sleep(0.5)
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import sys
from pipelines.processes.supervise import launch
launch([sys.executable, "-c", sys.argv[1]], on_line=lambda line: print(line, flush=True),
       grace_sec=1.0)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def tree(mark: str) -> dict[int, str]:
    """Return the processes that carry a mark, and their command lines; no zombies."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
    return found


def wait_until(condition, limit_sec: float = 20.0) -> None:
    deadline = time.monotonic() + limit_sec
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_system_without_guards_says_so_before_anything_starts(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(guard, "_IS_LINUX", False)
    monkeypatch.setattr(guard.sys, "platform", "darwin")
    with pytest.raises(ValueError, match="and this is darwin: use Linux"):
        launch(python("print(1)"))
    store = tmp_path / "store"
    assert run_command_line(["run", "--store", str(store), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sketchmill: training, the whole chain and deployed stages")
    assert (said.count("\n"), store.exists()) == (1, False)


@pytest.fixture
def mark(request):
    name = f"{request.node.name}-{os.getpid()}"
    yield name
    left = tree(name)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_lines_of_the_command_arrive_one_by_one():
    lines = []
    launch(python("print('a'); print('b')"), on_line=lines.append)
    assert lines == ["a", "b"]


def test_variables_reach_the_command():
    lines = []
    launch(python("import os; print(os.environ['X'])"), on_line=lines.append, env={"X": "1"})
    assert lines == ["1"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_failure_has_the_code_and_the_last_lines(code, expected):
    with pytest.raises(ChildError, match="why it failed") as caught:
        launch(python(f"import sys; print('why it failed', file=sys.stderr, flush=True); {code}"))
    assert caught.value.code == expected


def test_command_that_cannot_start_is_a_failure():
    with pytest.raises(ChildError, match="no-such-program"):
        launch(["/no-such-program"])


@pytest.mark.slow
def test_deadline_stops_the_command(mark):
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"stopped after 0\.7 s"):
        launch(python(AGENT), env={MARK: mark}, deadline_sec=0.7, grace_sec=0.3)
    assert time.monotonic() - started < 10
    assert tree(mark) == {}


@pytest.mark.slow
def test_command_may_save_within_the_grace_period(mark, tmp_path):
    saved = tmp_path / "saved"
    code = (
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n"
        f"    time.sleep(0.5); pathlib.Path({str(saved)!r}).touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(600)"
    )
    with pytest.raises(DeadlineError):
        launch(python(code), env={MARK: mark}, deadline_sec=1.0, grace_sec=10)
    assert saved.exists()
    assert tree(mark) == {}


def test_what_a_finished_command_left_behind_is_ended(mark):
    code = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    launch(python(code), env={MARK: mark})
    assert tree(mark) == {}


@pytest.mark.slow
def test_exception_in_the_callback_ends_the_processes(mark):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(python(AGENT), env={MARK: mark}, on_line=interrupt, grace_sec=0.3)
    assert tree(mark) == {}


@pytest.mark.slow
def test_exception_in_the_main_thread_ends_the_commands_of_other_threads(mark):
    ready, errors = threading.Event(), []

    def work():
        try:
            launch(
                python(AGENT),
                env={MARK: mark},
                on_line=lambda line: ready.set(),
                grace_sec=0.3,
            )
        except ChildError as error:
            errors.append(error.code)

    def cancelled():
        with stopping_children():
            thread.start()
            assert ready.wait(20)
            raise KeyboardInterrupt

    thread = threading.Thread(target=work)
    with pytest.raises(KeyboardInterrupt):
        cancelled()
    thread.join(20)
    assert errors == [143]
    assert tree(mark) == {}
    stop_all()  # with none running, nothing happens


FLOW = """
import os, time
from pipelines.processes.supervise import end_with_worker
worker = os.getppid()
print("ready", flush=True)
while os.getppid() == worker:
    time.sleep(0.01)
end_with_worker()
print("goes on", flush=True)
"""
WORKER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_flow_whose_worker_has_died_before_it_asked_ends_as_well():
    with subprocess.Popen(
        [*python(WORKER), FLOW],
        env=os.environ | {"PREFECT__FLOW_RUN_ID": "x"},
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout.readline() == "ready\n"
        worker.kill()
        assert worker.stdout.read() == ""


FLOW_OF_THREADS = """
import signal, threading
from concurrent.futures import ThreadPoolExecutor
from pipelines.processes.supervise import end_with_worker
told, first = [], threading.Event()
signal.signal(signal.SIGTERM, lambda *_: (told.append(1), first.set()))

def work():
    end_with_worker()
    first.wait(20)
    end_with_worker()

end_with_worker()
with ThreadPoolExecutor(3) as pool:
    tasks = [pool.submit(work) for _ in range(3)]
    print("ready", flush=True)
    assert first.wait(20)
[task.result() for task in tasks]
print(len(told), flush=True)
"""


def test_flow_is_told_once_that_its_worker_has_died_whatever_its_threads_do():
    """A second SIGTERM would interrupt Prefect while it reports that the run has crashed."""
    with subprocess.Popen(
        [*python(WORKER), FLOW_OF_THREADS],
        env=os.environ | {"PREFECT__FLOW_RUN_ID": "x"},
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout.readline() == "ready\n"
        worker.kill()
        assert worker.stdout.read() == "1\n"


# Words of each process's command line; the guard's has those of the command as well.
VICTIMS = {"parent": ("from pipelines.processes.supervise",), "guard": ("guard.py",), "command": ()}


def find_victim(processes: dict[int, str], victim: str) -> int:
    others = [word for words in VICTIMS.values() for word in words]
    (pid,) = [
        pid
        for pid, line in processes.items()
        if "print(" in line  # not the worker
        and [word for word in others if word in line] == list(VICTIMS[victim])
    ]
    return pid


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
@pytest.mark.parametrize("victim", sorted(VICTIMS))
def test_whichever_process_dies_no_process_is_left(mark, victim, number):
    with subprocess.Popen(
        [*python(PARENT), AGENT],
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout.readline() == "ready\n"
        assert len(tree(mark)) == 4
        os.kill(find_victim(tree(mark), victim), number)
        wait_until(lambda: not tree(mark), 30)
