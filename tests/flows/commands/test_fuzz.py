"""Whatever bytes a file has: exit 0, or 2 and a sentence that names it, soon and in little memory."""

import os
import random
import resource
import sys
import time
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import strokes
from built import some_drawings
from measured import GIB, run_measured
from mutations import KINDS, spoil_bytes, spoil_json, spoiled
from prepared import pngs_of, write_tfds

from flows.cli import run_command_line
from model.network.pixelcnn import PixelCNN
from pipelines.drawings.tfrecord import example, frame
from pipelines.store.artifacts import open_store

# More of them: SKETCHMILL_FUZZ=1000 SKETCHMILL_FUZZ_START=5000 pytest ...
EXAMPLES = int(os.environ.get("SKETCHMILL_FUZZ", "0"))
START = int(os.environ.get("SKETCHMILL_FUZZ_START", "0"))
# Of the processor: others may be at work beside the tests.
LIMIT_SEC = 10
SOURCES = ["npy", "simplified", "raw", "binary", "shard", "table", "list"]


def command_of(kind: str, file: Path, chance: random.Random) -> list[str]:
    """Return a command that reads the file."""
    if kind == "half":
        return ["complete", str(file), "--model", "bytes", "--class-name", "row", "--num", "1"]
    build = ["build", "--source", str(file.parent), "--classes", "all"]
    if kind == "list":
        build = ["build", "--classes-file", str(file), "--source", str(file.parent / "source")]
    odd = (["--with-metadata"], ["--on-bad-row", "skip"], ["--on-bad-file", "skip"], ["--dry-run"])
    return build + [part for option in odd if chance.random() < 0.25 for part in option]


def spoiled_command(kind: str, seed: int, folder: Path) -> list[str]:
    """Write a spoiled file and return a command that reads it."""
    chance = random.Random(f"{kind} {seed}")
    folder.mkdir()
    file = KINDS[kind].write(folder)
    file.write_bytes(spoiled(file.read_bytes(), KINDS[kind], chance))
    if kind == "list":
        (folder / "source").mkdir()
        KINDS["npy"].write(folder / "source")
    return [*command_of(kind, file, chance), "--quiet", "--store", str(folder.parent / "store")]


def check(command: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Run a command in this process, where no warning may be."""
    began = time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)  # which nobody is shown
        code = run_command_line(command)
    said = capfd.readouterr().err
    told = [f"{each.category.__name__}: {each.message}" for each in warned]
    check_ending(code, said + "".join(told), time.process_time() - began, command, folder)


def check_ending(code: int, said: str, sec: float, command: list[str], folder: Path) -> None:
    what = f"{' '.join(command)}: {code} after {sec:.0f} s: {said}"
    assert code in (0, 2), what
    assert code == 0 or folder.name in said or "class '" in said, what
    assert "Traceback" not in said, what
    assert "Warning" not in said, what
    assert len(said) < 5_000, what
    assert sec < LIMIT_SEC, what


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.slow
def test_spoiled_files_end_with_0_or_2(kind, tmp_path, capfd):
    for seed in range(START, START + (EXAMPLES or 3)):
        folder = tmp_path / f"odd-{seed}"
        check(spoiled_command(kind, seed, folder), folder, capfd)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("kind", SOURCES)
def test_many_spoiled_files_end_with_0_or_2(kind, tmp_path, capfd):
    for seed in range(100, 100 + (EXAMPLES or 12)):
        folder = tmp_path / f"odd-{seed}"
        check(spoiled_command(kind, seed, folder), folder, capfd)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_spoiled_half_drawings_end_with_0_or_2(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    store = open_store(str(tmp_path / "store"))
    dataset = strokes.publish_drawings(store, *strokes.drawings(6, seed=3))
    strokes.publish_model(store, PixelCNN(strokes.BYTES).eval(), dataset, "bytes")
    for seed in range(START, START + (EXAMPLES or 12)):
        folder = tmp_path / f"odd-{seed}"
        check(spoiled_command("half", seed, folder), folder, capfd)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_spoiled_datasets_of_tfds_end_with_0_or_2(tmp_path, capfd):
    for seed in range(START, START + (EXAMPLES or 12)):
        chance = random.Random(f"tfds {seed}")
        folder = write_tfds(tmp_path / f"odd-{seed}", pngs_of(some_drawings(6)), [0, 1] * 3)
        file = chance.choice([path for path in sorted(folder.iterdir()) if path.is_file()])
        if file.suffix == ".json":
            file.write_bytes(spoil_json(file.read_bytes(), chance))
        elif chance.random() < 0.5:
            file.write_bytes(spoil_bytes(file.read_bytes(), chance))
        else:
            odd = spoil_bytes(example(pngs_of(some_drawings(1))[0], 0), chance)
            file.write_bytes(frame([odd] * 3) if ".tfrecord" in file.name else odd)
        command = ["build", "--source", str(folder), "--classes", "all", "--quiet"]
        check([*command, "--store", str(tmp_path / "store")], folder, capfd)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("kind", ["npy", "raw", "table"])
def test_the_installed_command_takes_little_memory_for_a_spoiled_file(kind, tmp_path):
    folder = tmp_path / "odd-7"
    command = spoiled_command(kind, 7, folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = run_measured(tmp_path, tmp_path, *command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    sec = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    check_ending(ran.code, ran.errors, sec, command, folder)
    assert ran.peak < GIB
