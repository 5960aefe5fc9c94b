"""Several ranks: the same curve as one, exact resumption after a kill, no survivors."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from model.evaluation.evaluate import Evaluation, evaluate_model
from model.options import RunOptions, options_to_json
from model.ranks import Interrupted, read_failure, telling_failure
from model.training.spec import TrainSpec, run_digest, spec_to_json
from model.training.torchrun import LaunchError, train_in_processes
from model.training.train import train_model
from pipelines.store.artifacts import Store, open_store
from pipelines.store.errors import FinalError
from pipelines.store.manifest import Manifest

pytestmark = pytest.mark.slow

OPTIONS = RunOptions(num_threads=1, tensorboard=False, checkpoint_interval_sec=0.3)
# Which process is killed after how many drawings. SKETCHMILL_FUZZ=1 kills an agent and a guard as
# well, which test_supervise does without torch.
VICTIMS = {"rank": 24, "agent": 96, "guard": 128, "parent": 160}
if not os.environ.get("SKETCHMILL_FUZZ"):
    VICTIMS = {victim: VICTIMS[victim] for victim in ("rank", "parent")}


def curve(store, model) -> list[dict[str, float]]:
    content = store.get(f"{model.prefix}/curve.jsonl").decode()
    return [json.loads(line) for line in content.splitlines()]


def weights(store, model) -> bytes:
    return store.get(f"{model.prefix}/weights.safetensors")


def test_ranks_follow_the_curve_of_one(store, make_dataset, small_spec) -> None:
    # Two ranks do so in test_train_hosts.
    dataset = make_dataset(store)
    spec = small_spec(dataset, "precision=float64", "batch_size=8")
    alone = train_model(spec, dataset, store, "alone", options=OPTIONS)
    shared = train_in_processes(spec, dataset, store, "shared", num_processes=4, options=OPTIONS)
    assert shared.summary["num_ranks"] == 4
    for left, right in zip(curve(store, alone), curve(store, shared), strict=True):
        assert left.keys() == right.keys()
        values = np.array([list(left.values()), list(right.values())])
        np.testing.assert_allclose(values[0], values[1], rtol=0, atol=1e-9)
    evaluation = [json.loads(store.get(f"{m.prefix}/evaluation.json")) for m in (alone, shared)]
    assert evaluation[0]["test"]["num_drawings"] == evaluation[1]["test"]["num_drawings"] == 12
    assert evaluation[0]["test"]["nats"] == pytest.approx(evaluation[1]["test"]["nats"], abs=1e-8)


# Runs a module and, when Python is about to end, says what threads there still are.
SAY_THREADS = """
import atexit, os, pathlib, runpy, sys
_, folder, *sys.argv = sys.argv
def say():
    names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    pathlib.Path(folder, os.environ["RANK"]).write_text("".join(names))
atexit.register(say)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Trained:
    """A model of two ranks, what three say of it, and the last threads of these and those."""

    store: Store
    dataset: Manifest
    spec: TrainSpec
    model: Manifest
    evaluated: str
    threads: tuple[list[str], list[str]]


@pytest.fixture(scope="module")
def trained(make_dataset, small_spec, tmp_path_factory) -> Trained:
    """Ranks that were left alone."""
    folder = tmp_path_factory.mktemp("trained")
    store = open_store(str(folder / "store"))
    dataset = make_dataset(store, rows=40)
    spec = small_spec(dataset, "precision=float64", "budget_nimg=320")
    (folder / "say.py").write_text(SAY_THREADS)
    (folder / "spec.json").write_text(json.dumps(spec_to_json(spec)))

    def run(module: str, num_ranks: int, *arguments: str) -> tuple[str, list[str]]:
        threads = folder / module
        threads.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={num_ranks}", str(folder / "say.py"), str(threads), module]
        command += ["--store", store.url, "--dataset", f"{dataset.name}@{dataset.digest}"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, [path.read_text() for path in threads.iterdir()]

    options = ["--name", "whole", "--options-json", options_to_json(OPTIONS)]
    _, trainers = run("model.training.train", 2, *options, "--spec-json", str(folder / "spec.json"))
    model = store.resolve("models", "whole")
    options = ["--model", "whole", "--split", "train", "--cache", str(folder / "cache")]
    said, judges = run("model.evaluation.evaluate", 3, *options)
    return Trained(store, dataset, spec, model, said, (trainers, judges))


class Parent:
    """A process that trains with two ranks, as the command line does, to be killed."""

    SCRIPT = (
        "import json, sys\n"
        "from model.training.torchrun import train_in_processes\n"
        "from model.options import options_from_json\n"
        "from model.training.spec import spec_from_json\n"
        "from pipelines.store.artifacts import open_store\n"
        "url, dataset, name, spec, options = sys.argv[1:]\n"
        "store = open_store(url)\n"
        "def show(stage, done, total, message): print(done * (stage == 'train'), flush=True)\n"
        "train_in_processes(spec_from_json(json.loads(spec)),\n"
        "    store.resolve('datasets', dataset), store, name, num_processes=2,\n"
        "    options=options_from_json(options), progress=show)\n"
    )

    def __init__(self, store, dataset, spec, name: str) -> None:
        arguments = [store.url, f"{dataset.name}@{dataset.digest}", name]
        arguments += [json.dumps(spec_to_json(spec)), options_to_json(OPTIONS)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""

    def wait_for(self, nimg: int) -> None:
        """Return once training has shown that many drawings."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if int(line) >= nimg:
                return
        raise AssertionError("training ended before it could be disturbed")

    def family(self) -> dict[str, list[int]]:
        """Return the process ids of parent, guard, agent and ranks."""
        (guard,) = children(self.process.pid)
        (agent,) = children(guard)
        ranks = children(agent)
        assert len(ranks) == 2
        return {"parent": [self.process.pid], "guard": [guard], "agent": [agent], "rank": ranks}

    def family_at_start(self) -> dict[str, list[int]]:
        """Return the process ids as soon as there are two ranks."""
        while self.process.poll() is None:
            with contextlib.suppress(ValueError, AssertionError, FileNotFoundError):
                return self.family()
            time.sleep(0.02)
        raise AssertionError("training ended before it had ranks")

    def wait(self) -> int:
        _, self.errors = self.process.communicate(timeout=120)
        return self.process.returncode


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = [int(child) for child in text.split()]
    return [
        child
        for child in found
        if "python" in Path(f"/proc/{child}/cmdline").read_text(errors="replace")
    ]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], seconds: float = 60.0) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_killed_at_random_steps_ends_in_the_same_bytes(trained) -> None:
    store, dataset, whole = trained.store, trained.dataset, trained.model
    generator = random.Random(7)
    for victim, start in VICTIMS.items():
        parent = Parent(store, dataset, trained.spec, "killed")
        parent.wait_for(start + generator.randrange(48))
        family = parent.family()
        os.kill(generator.choice(family[victim]), signal.SIGKILL)
        assert parent.wait() != 0
        if victim == "rank":
            assert "ended with code -9" in parent.errors
        assert not wait_until_gone([pid for pids in family.values() for pid in pids]), (
            f"survivors after {victim}"
        )
        assert store.find("models", "killed", whole.digest) is None, victim
    resumed = train_in_processes(
        trained.spec, dataset, store, "killed", num_processes=2, options=OPTIONS
    )
    assert weights(store, resumed) == weights(store, whole)
    assert curve(store, resumed) == curve(store, whole)


@pytest.mark.parametrize(("victim", "delay_sec"), [("agent", 0.0), ("parent", 0.3)])
def test_ranks_whose_parent_is_killed_while_they_start_are_gone_before_they_train(
    store, make_dataset, small_spec, victim: str, delay_sec: float
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "budget_nimg=80")
    parent = Parent(store, dataset, spec, "orphans")
    family = parent.family_at_start()
    time.sleep(delay_sec)
    os.kill(family[victim][0], signal.SIGKILL)
    # Importing torch alone takes seconds; then they would train and publish.
    survivors = wait_until_gone(family["guard"] + family["agent"] + family["rank"])
    parent.wait()
    assert not survivors
    assert store.find("models", "orphans", run_digest(spec, dataset)) is None


def test_sigterm_saves_on_all_ranks_and_exits_143(store, make_dataset, small_spec) -> None:
    # A signal to the agent, which the guard sends, is in test_signals.
    dataset = make_dataset(store)
    spec = small_spec(dataset, "budget_nimg=4800")
    parent = Parent(store, dataset, spec, "stopped")
    parent.wait_for(80)
    family = parent.family()
    os.kill(family["rank"][-1], signal.SIGTERM)
    assert parent.wait() == 143
    assert not wait_until_gone(family["guard"] + family["agent"] + family["rank"])
    folder = Path(store.url) / "attempts" / f"train-{run_digest(spec, dataset)[:16]}"
    newest = max((folder / "checkpoints").glob("step-*"))
    assert int(newest.name.removeprefix("step-")) >= 10


def test_failure_in_a_rank_is_reported_with_its_words(store, make_dataset, small_spec) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "learning_rate=1e30", "clip_norm=0", "warmup_nimg=0")
    with pytest.raises(FinalError, match=r"^loss .*lower learning_rate") as caught:
        train_in_processes(spec, dataset, store, "m", num_processes=2, options=OPTIONS)
    assert "\n" not in str(caught.value)
    assert "Traceback" in "".join(caught.value.__notes__)


class TestFailure:
    """The rank that is heard: not the quickest to end, but the one whose failure it was."""

    LOST = "[.../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"

    @staticmethod
    def fail(path: Path, error: Exception, *, rank: int) -> None:
        with pytest.raises(type(error)), telling_failure(path, rank=rank):
            raise error

    def test_wrong_input_is_heard_though_another_rank_ended_before(self, tmp_path: Path) -> None:
        path = tmp_path / "failure.json"
        self.fail(path, RuntimeError(self.LOST), rank=1)
        assert read_failure(path, LaunchError) is None
        self.fail(path, ValueError("a shard is damaged"), rank=0)
        self.fail(path, MemoryError("mine is of later"), rank=2)
        failure = read_failure(path, LaunchError)
        assert type(failure) is ValueError
        assert str(failure) == "a shard is damaged"
        assert failure.__notes__[0].startswith("rank 0:\nTraceback")
        assert [found.name for found in tmp_path.iterdir()] == ["failure.json"]

    def test_failure_that_is_no_ones_input_keeps_its_words(self, tmp_path: Path) -> None:
        path = tmp_path / "failure.json"
        self.fail(path, KeyError(), rank=0)
        failure = read_failure(path, LaunchError)
        assert type(failure) is LaunchError
        assert str(failure) == "KeyError"

    def test_without_a_launcher_nothing_is_written(self) -> None:
        with pytest.raises(ValueError, match="x"), telling_failure(None, rank=0):
            raise ValueError("x")


def test_evaluation_sees_each_drawing_once_on_any_number_of_ranks(trained, tmp_path: Path) -> None:
    alone = evaluate_model(
        trained.model,
        trained.dataset,
        trained.store,
        Evaluation(split="train"),
        cache_dir=tmp_path,
    )
    # 40 drawings on 3 ranks: the last has fewer.
    found = json.loads(trained.evaluated)
    assert found["num_drawings"] == alone["num_drawings"] == 40
    for key in ("nats", "nats_stderr", "bits_per_dim"):
        assert found[key] == pytest.approx(alone[key], rel=1e-12), key
    assert found["classes"].keys() == alone["classes"].keys()


def test_ranks_leave_no_thread_of_gloo_behind(trained) -> None:
    # One that still had a tensor when Python ended aborted its rank now and then.
    assert [len(threads) for threads in trained.threads] == [2, 3]
    assert "gloo" not in str(trained.threads)


def test_memory_store_is_refused(make_dataset, small_spec) -> None:
    store = open_store("memory://")
    dataset = make_dataset(store)
    with pytest.raises(ValueError, match="cannot be shared"):
        train_in_processes(small_spec(dataset), dataset, store, "m", num_processes=1)


def test_interrupted_is_an_exit_with_the_signals_code() -> None:
    assert issubclass(Interrupted, SystemExit)
    assert Interrupted(143).code == 143
