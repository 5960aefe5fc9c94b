"""Disks that take no more, or nothing: what still works, and what one line says of the rest.

Where nothing can be mounted, a process that may write no byte to a file stands in for a full disk, and
modes for a disk that may only be read.
"""

import contextlib
import dataclasses
import functools
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "model"))

import ring_chain
import strokes

from flows.cli import run_command_line
from flows.stages import sample
from flows.stages.sample import SampleParams
from model.network.pixelcnn import PixelCNN
from pipelines.store.artifacts import open_store

ROOT = Path(__file__).parents[3]
SKETCHMILL = str(Path(sys.executable).with_name("sketchmill"))
# Root has its way with files whatever their modes, but for this.
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


def ask(*command: str, under: Callable[[], None] | None = None, **environment: str):
    """Run a command as a person does and return its exit code, output and errors."""
    found = {"PYTHONPATH": str(ROOT)} | os.environ | environment
    done = subprocess.run(
        command, env=found, capture_output=True, text=True, preexec_fn=under, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Mount something on a folder for as long as the block; skip the test where that is denied."""
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write_nothing() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


class FullDisk:
    """A folder on a full disk, and how to run commands that find it so."""

    def __init__(self, folder: Path, under: Callable[[], None] | None) -> None:
        self.folder, self._under = folder, under
        # Even temporary files cannot be written, which some commands notice first.
        self.is_everywhere = under is not None

    def fill(self) -> None:
        """Leave no room, once everything is there."""
        if self._under is None:
            with contextlib.suppress(OSError), (self.folder / "rest").open("wb") as file:
                while True:
                    os.write(file.fileno(), bytes(1024))

    def ask(self, *command: str, **environment: str) -> tuple[int, str, str]:
        return ask(SKETCHMILL, *command, under=self._under, **environment)


@pytest.fixture(params=["disk", "limit"])
def full(request, tmp_path, monkeypatch) -> Iterator[FullDisk]:
    """A disk of a MiB, or a process that writes nothing."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "full"
    folder.mkdir()
    if request.param == "limit":
        yield FullDisk(folder, write_nothing)
        return
    with mounted(folder, "-t", "tmpfs", "-o", "size=1m", "none"):
        yield FullDisk(folder, None)


def used_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
def test_collection_on_a_full_disk_frees_what_nothing_needs(full):
    store = open_store(str(full.folder / "store"))
    for seed in range(4):
        made = strokes.publish_drawings(store, *strokes.drawings(6, seed=seed))
    store.put("attempts/old/scratch", bytes(4096))
    long_ago = time.time() - 30 * 86400
    os.utime(store.local_path("attempts/old/scratch"), (long_ago, long_ago))
    full.fill()
    before = used_bytes(full.folder)
    sweep = ("gc", "--delete", "--grace-days", "0", "--keep", "1", "--store", store.url)
    assert full.ask(*sweep)[0] == 0
    assert used_bytes(full.folder) < before - 4096
    assert [each.digest for each in store.manifests("datasets")] == [made.digest]
    assert [item.path for item in store.objects("attempts")] == []
    assert store.damaged(made) == []


WRITING = [
    "pin strokes",
    "build --classes bee --max-per-class 10",
    "export strokes --format idx",
    "pull strokes --origin {other}",
]


@pytest.mark.slow
def test_a_full_disk_is_named_in_one_line_and_read_all_the_same(full, tmp_path):
    stores = [open_store(str(folder / "store")) for folder in (full.folder, tmp_path)]
    for store in stores:
        strokes.publish_drawings(store, *strokes.drawings(6, seed=3))
    full.fill()
    url = stores[0].url
    for command in WRITING:
        code, _, said = full.ask(
            *command.format(other=stores[1].url).split(), "--store", url, "--quiet"
        )
        assert (code, said.count("\n")) == (1, 1), (command, said)
        assert f"{url} is full (" in said or full.is_everywhere, (command, said)
    code, found, _ = full.ask("doctor", "--store", url)
    assert (code, found.count(f"{url} is full (")) == (1, 1), found
    code, _, said = full.ask("diff", "strokes", "strokes", "--store", url)
    assert code == 0, said
    assert said == f"{url} is full: a garbage collection may delete artifacts while they are read\n"


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HOME", "PREFECT_HOME", "SKETCHMILL_CACHE"])
def test_a_full_home_is_named_at_once(full, tmp_path, variable):
    full.fill()
    places = {name: str(tmp_path / name) for name in ("HOME", "PREFECT_HOME", "SKETCHMILL_CACHE")}
    places[variable] = str(full.folder)
    if variable == "HOME":
        del places["PREFECT_HOME"]
    said = refused_home(full.ask, tmp_path, places, code=1)
    assert str(full.folder) in said or full.is_everywhere, said


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/proc/none", "file/below"])
def test_a_home_that_cannot_be_is_named_at_once(tmp_path, place):
    (tmp_path / "file").write_text("")
    places = {"HOME": str(tmp_path / place), "SKETCHMILL_CACHE": str(tmp_path / "cache")}
    run = functools.partial(ask, SKETCHMILL)
    assert str(tmp_path / place) in refused_home(run, tmp_path, places, code=2)


def refused_home(run, folder: Path, places: dict[str, str], code: int) -> str:
    """Return the one line that a whole chain ends with, soon, where it cannot write."""
    store = str(folder / "run")
    began = time.monotonic()
    found, _, said = run("run", "--classes", "bee", "--store", store, "--quiet", **places)
    assert (found, said.count("\n")) == (code, 1), said
    assert time.monotonic() - began < 30
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a store that has datasets, a model, samples, and what a report is of."""
    folder = tmp_path_factory.mktemp("chain")
    store = open_store(str(folder / "store"))
    ring_chain.make_chain(store)
    dataset = strokes.publish_drawings(store, *strokes.drawings(6, seed=3))
    torch.manual_seed(0)
    model = PixelCNN(dataclasses.replace(strokes.CONFIG, high=255)).eval()
    strokes.publish_model(store, model, dataset, "net")
    params = SampleParams(store=store.url, model="net", name="new", per_class=2, processes=1)
    sample.STAGE.run(params)
    return folder


@pytest.fixture
def read_only(made, tmp_path, monkeypatch) -> Iterator[Path]:
    """The current directory, whose `store` may only be read."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "store", tmp_path / "store")
    with without_writing(tmp_path / "store"):
        yield tmp_path


@contextlib.contextmanager
def without_writing(store: Path) -> Iterator[None]:
    if os.geteuid():
        with without_modes(store):
            yield
        return
    with mounted(store, "--bind", str(store)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(store)], check=True)
        yield


@contextlib.contextmanager
def without_modes(store: Path) -> Iterator[None]:
    subprocess.run(["chmod", "-R", "a-w", str(store)], check=True)
    try:
        yield
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(store)], check=True)


# Commands, and whether they read files that a lease would keep.
SERVED = {
    "ls": False,
    "show net": False,
    "lineage net": False,
    "gc": False,
    "verify net new": True,
    "diff net new": True,
    "evaluate --model net": True,
    "reproduce new --row 1": True,
    "report --samples rings": True,
    "report --samples rings --audit": True,
    "export strokes --format png --out {out}": True,
    "export samples/rings --format idx,numpy_bitmap --out {out}": True,
    "score --model net --worst 1": True,
    "complete --model net --dataset strokes --num 1": True,
    "push samples/new --to other": True,
    "pull samples/new --origin store --store other": True,
}


@pytest.mark.slow
@pytest.mark.parametrize("command", SERVED)
def test_store_that_may_only_be_read_serves(read_only, capsys, caplog, monkeypatch, command):
    monkeypatch.setattr("pipelines.store.held._told", set())
    given = command.format(out=read_only / "out").split()
    given += [] if "--store" in given else ["--store", "store"]
    code = run_command_line([*given, "--quiet"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert caplog.text.count("may only be read: a garbage") == SERVED[command]
    if command.startswith("report"):
        page = Path(said.out.split()[-1])
        assert page.is_relative_to(read_only / "cache")
        assert "<html" in page.read_text()
    if "--out" in command:
        assert (read_only / "out" / "manifest.json").exists()
        assert not (read_only / "out" / "attempts").exists()


REFUSED = [
    "build --classes bee",
    "run --classes bee",
    "train --dataset strokes",
    "sample --model net --samples-per-class 1 --name more",
    "quota --model net --samples-per-class 1",
    "classifier --dataset strokes",
    "export strokes --format idx",
    "pin net",
    "pull strokes --origin store",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", REFUSED)
def test_what_must_write_says_at_once_that_a_store_may_only_be_read(read_only, capsys, command):
    assert run_command_line([*command.split(), "--store", "store", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sketchmill: {read_only / 'store'} may only be read ("), said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_store_of_others_is_read_by_the_installed_command(made, tmp_path):
    command = [SKETCHMILL]
    if not os.geteuid():
        if shutil.which("setpriv") is None:
            pytest.skip("root may write whatever the modes say, and there is no setpriv")
        command = [*AS_OTHERS, SKETCHMILL]
    shutil.copytree(made / "store", tmp_path / "store")
    store, cache = str(tmp_path / "store"), str(tmp_path / "cache")

    def run(*arguments: str) -> tuple[int, str, str]:
        return ask(*command, *arguments, "--store", store, "--quiet", SKETCHMILL_CACHE=cache)

    with without_modes(tmp_path / "store"):
        code, _, said = run("export", "strokes", "--format", "idx", "--out", str(tmp_path / "out"))
        assert (code, said.count("\n"), said.count("may only be read")) == (0, 1, 1), said
        code, _, said = run("build", "--classes", "bee")
        assert (code, said.count("\n")) == (2, 1), said
        assert f"{store} may only be read (Permission denied)" in said


NO_LINKS = """
import errno, os
def refuse(*_, **__):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
os.link = refuse
"""
NO_LOCKS = """
import fcntl
flock = fcntl.flock
fcntl.flock = lambda file, how: refuse() if str(file.name).endswith("lock#0") else flock(file, how)
"""


@pytest.mark.slow
def test_two_builds_at_once_agree_without_hard_links(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_LINKS)
    places = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    store = str(tmp_path / "store")
    build = [SKETCHMILL, "build", "--classes", "bee", "--max-per-class", "20", "--store", store]
    both = [
        subprocess.Popen(
            build, env=os.environ | places | {"SKETCHMILL_CACHE": str(tmp_path / each)}
        )
        for each in ("one", "other")
    ]
    assert [each.wait(120) for each in both] == [0, 0]
    assert len(open_store(store).refs("datasets", "doodles")) == 1
    assert ask(SKETCHMILL, "verify", "--store", store, **places)[0] == 0


@pytest.mark.slow
def test_disk_with_neither_hard_links_nor_locks_is_refused_by_the_first_command(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_LINKS + NO_LOCKS)
    places = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "SKETCHMILL_CACHE": str(tmp_path / "cache")}
    store = str(tmp_path / "store")
    code, _, said = ask(SKETCHMILL, "build", "--classes", "bee", "--store", store, **places)
    assert code == 2
    assert said.splitlines()[-1].startswith(
        f"sketchmill: {store} cannot be a store: its file system"
    )
