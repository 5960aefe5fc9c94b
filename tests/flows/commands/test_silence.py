"""Every wait of over two seconds says what it is: commands in processes, slowed from outside.

Nothing of ours is replaced: what is slow is the file system, the store, a server, an import. A module
`sitecustomize` in the child makes it so.
"""

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipelines.store.artifacts import open_store
from pipelines.store.manifest import InputRef, Kind, Manifest, artifact_digest

ROOT = Path(__file__).parents[3]
# Ten seconds, which is the pace of a log, and what a busy machine adds.
PACE_SEC = 14.0
# A command that has not said it by now never will.
LAST_SEC = 60.0
# SLOW is a JSON object: seconds by what is slow. What is slow itself says when it begins and ends.
BEGINS, ENDS = "(it is slow now)\n", "(it was slow)\n"
SITE = f'''
import importlib.machinery, io, json, os, pathlib, sys, time
SLOW = json.loads(os.environ.get("SLOW", "{{}}"))

def wait(seconds):
    sys.stderr.write({BEGINS!r})
    time.sleep(seconds)
    sys.stderr.write({ENDS!r})

class Finder:
    """Modules of these names take long to be found; of obstore, what asks a store does too."""
    def find_spec(self, name, path, target=None):
        if name in SLOW:
            wait(SLOW[name])
        if name != "obstore" or "store" not in SLOW:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            for each in ("get", "head", "list", "list_with_delimiter", "put", "delete"):
                setattr(module, each, late(getattr(module, each)))
        spec.loader.exec_module = exec_module
        return spec

def late(function):
    def called(*args, **kwargs):
        wait(SLOW["store"])
        return function(*args, **kwargs)
    return called

class SlowFile(io.FileIO):
    def readinto(self, target):
        time.sleep(SLOW["read"])
        return super().readinto(target)

open_file = pathlib.Path.open

def opened(self, mode="r", buffering=-1, *args, **kwargs):
    if buffering == 0 and "read" in SLOW:
        return SlowFile(self, mode)
    return open_file(self, mode, buffering, *args, **kwargs)

pathlib.Path.open = opened
sys.meta_path.insert(0, Finder())
'''


class Command:
    """A command in a process of its own, and the seconds at which it said each line."""

    def __init__(
        self, folder: Path, *arguments: str, slow: Mapping[str, float], stderr: int
    ) -> None:
        program = str(Path(sys.executable).with_name("sketchmill"))
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [program, *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=os.environ
            | {"PYTHONPATH": f"{folder / 'site'}:{ROOT}", "SLOW": json.dumps(slow)}
            | {"SKETCHMILL_CACHE": str(folder / "cache")},
        )

    def lines(self, until: str = "") -> Iterator[tuple[float, str]]:
        """Yield when each line of the log came; stop after the one that was waited for."""
        stream = self.process.stderr
        assert stream is not None
        late = threading.Timer(LAST_SEC, self.process.kill)
        late.start()
        try:
            for line in stream:
                yield time.monotonic() - self.began, line.decode()
                if until and re.search(until, line.decode()):
                    break
        finally:
            late.cancel()


@pytest.fixture
def start(tmp_path) -> Iterator:
    """Start commands in an empty folder that can be slow; they are ended with the test."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    with contextlib.ExitStack() as stack:

        def command(
            *arguments: str, slow: Mapping[str, float], stderr: int = subprocess.PIPE
        ) -> Command:
            made = Command(tmp_path, *arguments, slow=slow, stderr=stderr)
            stack.callback(made.process.communicate)
            stack.callback(made.process.kill)
            return made

        yield command


def check_no_silence(lines: Sequence[tuple[float, str]]) -> None:
    """Assert that what is slow first is spoken of before it ends, and no line comes too late."""
    texts = [line for _, line in lines]
    if ENDS in texts:
        assert texts.index(ENDS) - texts.index(BEGINS) > 1, texts
    before = 0.0
    for at, line in lines:
        assert at - before < PACE_SEC, f"{at - before:.1f} s of silence before {line!r}"
        before = at


def hear(start, cases: Mapping[str, str], slow: Mapping[str, float]) -> None:
    """Run commands side by side until each has said what it must while something is slow."""

    def listen(case: tuple[str, str]) -> None:
        arguments, said = case
        lines = list(start(*arguments.split(), slow=slow).lines(until=said))
        check_no_silence(lines)
        assert re.search(said, lines[-1][1]), (arguments, lines)

    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(listen, cases.items()))


@pytest.fixture
def source(tmp_path) -> Path:
    """Two files of a quarter of a million bytes and more, in pieces as they are read."""
    folder = tmp_path / "source"
    folder.mkdir()
    for seed, name in enumerate(("bee", "sun")):
        images = np.random.default_rng(seed).integers(0, 2, (700, 784), np.uint8) * 255
        images[:, 300:] = 0
        np.save(folder / f"{name}.npy", images)
    return folder


@pytest.mark.slow
def test_hashing_says_how_many_bytes_of_how_many(start, source):
    total = sum(file.stat().st_size for file in source.iterdir())
    arguments = ("build", "--source", str(source), "--classes", "all", "--dry-run", "--json")
    command = start(*arguments, slow={"read": 0.5})
    lines = list(command.lines())
    check_no_silence(lines)
    said = [line for _, line in lines if line.startswith("hash ")]
    assert f"of {total:,}  files of {source}" in said[0]
    assert re.match(r"hash +(0|[1-9][0-9]?)% +\d", said[0])
    assert said[-1].startswith("hash         100%")
    plan = json.loads(command.process.stdout.read().splitlines()[-1])
    assert plan["source_bytes"] == total


@pytest.mark.slow
def test_on_a_terminal_hashing_moves_a_bar(start, source):
    parent, child = pty.openpty()
    arguments = ("build", "--source", str(source), "--classes", "all", "--dry-run")
    command = start(*arguments, slow={"read": 0.5}, stderr=child)
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone with its last writer
        while piece := os.read(parent, 1 << 12):
            shown += piece
    os.close(parent)
    places = set(re.findall(r"hash [^\n]*?([0-9]+)%", shown.decode()))
    assert len(places) > 2, shown.decode()[-500:]
    assert command.process.wait() == 0


SLOW_STORE = {
    "ls": r"store +waiting for /.*/store\n",
    "show drawings": r"store +waiting for /",
    "verify drawings": r"store +waiting for /|verify +0% .* 1 artifacts",
    "lineage drawings": r"store +waiting for /|lineage +reading all manifests",
    "gc": r"gc +finding what nothing needs",
    "gc --delete": r"gc +finding what nothing needs",
    "push drawings --to ../other": r"store +waiting for /",
    "pin drawings": r"store +waiting for /",
    "doctor": r"doctor +asking the machine and the store",
    "build --classes sun --dry-run": r"store +waiting for /",
}
SLOW_IMPORT = {
    "sample --model x": "load +importing torch",
    "evaluate --model x": "load +importing torch",
    "classifier --dataset x": "load +importing torch",
    "score --model x": "load +importing torch",
    "complete --model x --dataset x": "load +importing torch",
    "quota --model x --samples-per-class 1": "load +importing torch",
    "reproduce x --row 0": "load +importing torch",
    "serve": "load +importing prefect",
    "build --classes sun": "load +importing apache_beam",
}


@pytest.mark.slow
def test_a_slow_store_is_named_by_every_command(start, tmp_path):
    open_store(str(tmp_path / "store")).put("datasets/drawings/x", b"")
    hear(start, SLOW_STORE, {"store": 3.0})


@pytest.mark.slow
def test_quiet_commands_say_nothing_of_what_they_wait_for(start, tmp_path):
    open_store(str(tmp_path / "store")).put("datasets/drawings/x", b"")
    said = [line for _, line in start("ls", "--quiet", slow={"store": 2.5}).lines()]
    assert len(said) > 1
    assert set(said) == {BEGINS, ENDS}


@pytest.mark.slow
def test_an_import_that_takes_long_is_named_by_every_command(start, tmp_path):
    store = open_store(str(tmp_path / "store"))
    inputs: tuple[InputRef, ...] = ()
    kinds: dict[Kind, str] = {"datasets": "dataset", "models": "model", "samples": "samples"}
    for kind, role in kinds.items():  # of each one that is found, with nothing in it
        summary = {"class_names": ["sun"], "image_shape": [28, 28], "tfds_ids": [293]}
        digest = artifact_digest(kind, {}, inputs)
        made = Manifest(
            kind=kind, name="x", digest=digest, spec={}, inputs=inputs, files=(), summary=summary
        )
        inputs = (store.publish(made).ref(role),)
    hear(start, SLOW_IMPORT, {"torch": 3.0, "prefect": 3.0, "apache_beam": 3.0})


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named(start, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.setenv("SKETCHMILL_QUICKDRAW_URL", url)
        cases = {
            "deploy": "deploy +waiting for the Prefect server",
            "build --source quickdraw --classes bee": r"download +0% +0 of [0-9,]+  bee",
            f"build --source {url}/drawings.parquet": f"source +waiting for {url}/drawings.parquet",
        }
        hear(start, cases, {})


@pytest.mark.slow
def test_a_garbage_collection_that_is_waited_for_is_named(start, tmp_path, source):
    store = open_store(str(tmp_path / "store"))
    arguments = ("build", "--source", str(source), "--classes", "all", "--json", "--name", "x")
    plan = subprocess.run(
        [Path(sys.executable).with_name("sketchmill"), *arguments, "--dry-run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SKETCHMILL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        check=True,
    )
    prefix = f"datasets/x/{json.loads(plan.stdout.splitlines()[-1])['digest']}"
    store.put("sweeping/other.json", json.dumps({"sweeps": [prefix]}).encode())
    command = start(*arguments, slow={})
    said = f"store +waiting for a garbage collection that sweeps {prefix}"
    lines = list(command.lines(until=said))
    store.delete("sweeping/other.json")
    lines += command.lines()
    check_no_silence(lines)
    assert re.search(said, "".join(line for _, line in lines)), lines
    assert json.loads(command.process.stdout.read().splitlines()[-1])["name"] == "x"


def test_what_is_quick_says_nothing(tmp_path, capsys, monkeypatch):
    from flows.cli import run_command_line
    from pipelines.processes import progress

    monkeypatch.setattr(progress, "TELL_SEC", 60.0)
    (tmp_path / "store").mkdir()
    before = set(threading.enumerate())
    assert run_command_line(["ls", "--store", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().err == ""
    assert set(threading.enumerate()) <= before
