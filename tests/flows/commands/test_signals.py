"""A command that is told to stop ends in ten seconds, in one line, and leaves no process."""

import contextlib
import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.cli import COMMANDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# In the environment of all processes of a command; /proc shows it.
MARK = "SKETCHMILL_TEST_SIGNALS"
PROGRAM = str(Path(sys.executable).with_name("sketchmill"))
LIMIT_SEC, KILLED_LIMIT_SEC = 10.0, 15.0
SAID = "stopped; the same command goes on\n"
CHAIN = ("--classes", "sun,bee", "--max-per-class", "60")
SMALL = ("num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8")
SETTINGS = tuple(part for setting in SMALL for part in ("--set", setting))
ENDLESS = ("--set", "budget_nimg=100000000")

# Commands at work with a store that never answers.
HANGING = {
    "run": ["--classes", "sun"],
    "build": ["--classes", "sun", "--workers", "2"],
    "train": ["--dataset", "doodles"],
    "evaluate": ["--model", "m"],
    "sample": ["--model", "m"],
    "report": ["--samples", "s"],
    "report --audit": ["--samples", "s"],
    "quota": ["--model", "m", "--samples-per-class", "2"],
    "reproduce": ["s", "--row", "0"],
    "complete": ["--model", "m"],
    "classifier": ["--dataset", "d"],
    "score": ["--model", "m"],
    "export": ["d"],
    "ls": [],
    "show": ["d"],
    "verify": [],
    "lineage": ["d"],
    "diff": ["d", "e"],
    "gc": ["--delete"],
    "pin": ["d"],
    "unpin": ["d"],
    "pull": ["d", "--origin", "s3://bucket/other"],
    "push": ["d", "--to", "other"],
    "doctor": [],
    "inspect": ["s3://bucket/source"],
    "deploy": ["--pool-type", "process"],
}
# `classes` and `sources` print what is in the package; `serve` is in test_serve.
ELSEWHERE = {"classes", "sources", "serve"}


class Command:
    """A command in a session of its own, as a terminal starts it."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.mark = f"{MARK}={uuid.uuid4().hex}"
        homes = {name: str(folder / name) for name in ("PREFECT_HOME", "SKETCHMILL_CACHE")}
        self.process = subprocess.Popen(
            [PROGRAM, *arguments, "--quiet"],
            cwd=folder,
            env=os.environ | homes | (env or {}) | dict([self.mark.split("=")]),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell lets what it starts in the background, such as these tests, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def processes(self, text: str = "") -> list[int]:
        """Return its processes, however they are related to it now."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if self.mark.encode() in (entry / "environ").read_bytes() and text in line:
                    found.append(int(entry.name))
        return found

    def wait_for(self, condition: Callable[[], object], limit_sec: float = 300) -> None:
        limit = time.monotonic() + limit_sec
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < limit, "did not happen in time"
            time.sleep(0.05)

    def stop(self, number: signal.Signals, *, group: bool) -> None:
        """Stop it, alone or as a terminal does; assert that it ends as it should."""
        assert self.process.poll() is None, self.process.communicate()
        begin = time.monotonic()
        (os.killpg if group else os.kill)(self.process.pid, number)
        _, said = self.process.communicate(timeout=3 * LIMIT_SEC)
        assert (self.process.returncode, said) == (128 + number, SAID), self.process.args
        assert time.monotonic() - begin < LIMIT_SEC, self.process.args
        assert self.processes() == [], self.process.args

    def kill(self) -> None:
        """Kill it; assert that nothing of it is left in time."""
        begin = time.monotonic()
        self.process.kill()
        while self.processes():
            assert time.monotonic() - begin < KILLED_LIMIT_SEC, self.processes()
            time.sleep(0.1)


@contextlib.contextmanager
def started(folder: Path, *arguments: str, **options) -> Iterator[Command]:
    command = Command(folder, *arguments, **options)
    try:
        yield command
    finally:
        for pid in command.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        command.process.communicate()


def end(command: Command, number: signal.Signals) -> None:
    """SIGINT as a terminal sends it, SIGTERM as another process does, or SIGKILL."""
    if number == signal.SIGKILL:
        command.kill()
    else:
        command.stop(number, group=number == signal.SIGINT)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_every_command_is_told_to_stop_here():
    assert {name.split()[0] for name in HANGING} | ELSEWHERE == set(COMMANDS)


def stop_hanging(folder: Path, name: str, number: signal.Signals) -> None:
    verb, *flags = name.split()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        env = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "PREFECT_API_URL": f"{url}/api" if verb == "deploy" else "",
        }
        store = [] if verb == "inspect" else ["--store", "s3://bucket/store"]
        arguments = [verb, *flags, *HANGING[name], *store]
        with started(folder, *arguments, env=env) as command:
            connection, _ = server.accept()
            with connection:
                end(command, number)


def test_command_ends_whose_store_does_not_answer(home):
    """It waits inside a library that knows no signals; every other command is sent SIGTERM."""
    numbers = itertools.cycle((signal.SIGINT, signal.SIGTERM))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(functools.partial(stop_hanging, home), HANGING, numbers))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_command_that_has_just_been_started_ends(number, tmp_path):
    with started(tmp_path, "build", "--classes", "sun") as command:
        command.wait_for(lambda: len(command.processes()) >= 3)
        command.stop(number, group=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_build_with_workers_leaves_none(number, tmp_path):
    arguments = ["build", "--classes", "sun,bee", "--workers", "2"]
    with started(tmp_path, *arguments) as command:
        command.wait_for(lambda: command.processes("sdk_worker"))
        end(command, number)


def test_suspended_command_goes_on(tmp_path):
    """As by Ctrl-Z and fg."""

    def states() -> str:
        texts = [Path(f"/proc/{pid}/stat").read_text() for pid in command.processes()]
        return "".join(sorted(text.rpartition(")")[2].split()[0] for text in texts))

    with started(tmp_path, "build", "--classes", "sun", "--max-per-class", "60") as command:
        command.wait_for(lambda: len(command.processes()) >= 3)
        command.process.send_signal(signal.SIGSTOP)  # no terminal, no SIGTSTP
        command.wait_for(lambda: states() == "STT")  # the guard goes on
        command.process.send_signal(signal.SIGCONT)
        assert command.process.wait(120) == 0


def test_chain_is_stopped_just_after_the_build_and_while_it_trains(home):
    """When it is killed, Prefect's server and the ranks end too."""
    arguments = ["run", *CHAIN, *SETTINGS, *ENDLESS]
    with started(home, *arguments) as command:
        command.wait_for(lambda: list(home.glob("store/datasets/*/*/manifest.json")))
        command.stop(signal.SIGTERM, group=False)
    for number in (signal.SIGINT, signal.SIGKILL):
        with started(home, *arguments) as command:
            command.wait_for(lambda: command.processes("model.training.train"))
            assert command.processes("prefect.server")
            end(command, number)


def test_chain_is_stopped_while_it_samples(home):
    few = ("--set", "budget_nimg=16", "--samples-per-class", "5000", "--processes", "2")
    for number in (signal.SIGINT, signal.SIGKILL):
        with started(home, "run", *CHAIN, *SETTINGS, *few) as command:
            command.wait_for(lambda: command.processes("model.sampling.workers"))
            end(command, number)


def test_training_on_two_ranks_saves_and_goes_on(tmp_path):
    build = [PROGRAM, "build", *CHAIN, "--quiet"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    train = ["train", "--dataset", "doodles", "--nproc-per-node", "2", *SETTINGS, *ENDLESS]

    def saved() -> int:
        steps = tmp_path.glob("store/attempts/train-*/checkpoints/step-*/COMPLETE")
        return max((int(step.parent.name[5:]) for step in steps), default=0)

    before = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        with started(tmp_path, *train, "--checkpoint-interval", "1") as command:
            command.wait_for(lambda: saved() > before, 90)  # noqa: B023
            before = saved()
            time.sleep(0.5)
            end(command, number)
        assert saved() > before
        before = saved()
