"""Two trainers of one model in one place: the second waits and takes the first one's model."""

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.options import RunOptions, run_folder
from model.ranks import Interrupted
from model.training.spec import run_digest
from model.training.train import FolderLock, train_model

OPTIONS = RunOptions(num_threads=1, tensorboard=False)
HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from model.training.train import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1]))\n"
    "print(lock.take(), flush=True)\n"
    "sys.stdin.read()\n"
)


class Holder:
    """Another process that has the lock until it is killed."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "True\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def work(store, make_dataset, small_spec):
    dataset = make_dataset(store)
    spec = small_spec(dataset, "budget_nimg=16")
    return spec, dataset, store, run_folder(OPTIONS, store, run_digest(spec, dataset))


@pytest.fixture
def holder(work) -> Iterator[Holder]:
    holder = Holder(work[-1])
    yield holder
    holder.kill()


@pytest.mark.slow
def test_second_trainer_names_the_first_and_trains_once_that_one_is_gone(work, holder) -> None:
    spec, dataset, store, folder = work
    shown = []

    def free(stage: str, done: int, total: int, message: str) -> None:
        shown.append(message)
        if "waiting" in message:
            assert not (folder / "curve.jsonl").exists()
            holder.kill()

    train_model(spec, dataset, store, "m", options=OPTIONS, progress=free)
    assert f"waiting for process {holder.process.pid} on" in shown[0]


@pytest.mark.slow
def test_second_trainer_answers_with_the_model_of_the_first(work) -> None:
    spec, dataset, store, _ = work
    started, shown = threading.Event(), []
    found = []

    def first_progress(stage: str, done: int, total: int, message: str) -> None:
        if not started.is_set():
            started.set()
            second.start()
            waiting.wait(60)

    def second_progress(stage: str, done: int, total: int, message: str) -> None:
        shown.append(message)
        waiting.set()

    def train_second() -> None:
        options = RunOptions(num_threads=1, tensorboard=False)
        found.append(
            train_model(spec, dataset, store, "m", options=options, progress=second_progress)
        )

    waiting, second = threading.Event(), threading.Thread(target=train_second)
    first = train_model(spec, dataset, store, "m", options=OPTIONS, progress=first_progress)
    second.join(60)
    assert found == [first]
    assert all("waiting" in message for message in shown)


@pytest.mark.slow
def test_stop_ends_the_wait(work, holder) -> None:
    spec, dataset, store, _ = work

    def stop(stage: str, done: int, total: int, message: str) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        train_model(spec, dataset, store, "m", options=OPTIONS, progress=stop)
    assert caught.value.code == 143


def test_lock_is_free_once_it_is_closed(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.take()
    assert not second.take()
    first.close()
    assert second.take()
    second.close()


def test_folder_that_cannot_be_locked_is_used_with_a_warning(
    monkeypatch, tmp_path: Path, caplog
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    lock = FolderLock(tmp_path)
    assert lock.take()
    lock.close()
    (message,) = caplog.messages
    assert "start one trainer at a time" in message
