"""Damaged scratch through the command: made again with a word, and the bytes are the same."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import run_command_line
from pipelines.sources.doodles.make import write_doodles
from pipelines.store.artifacts import Store

# Minutes of orders, commands and servers: for the whole run.
pytestmark = pytest.mark.slow

CLASSES = ("bee", "sun")
OPTIONS = ["--source", "drawings", "--classes", ",".join(CLASSES), "--name", "one", "--quiet"]
OPTIONS += ["--with-metadata", "--near-duplicates", "1", "--rows-per-shard", "30"]
AGAIN = "made again"
# How many places of each file are damaged, one after the other: each in its own store. More of
# them: SKETCHMILL_FUZZ=1 pytest ...
PLACES = 12 if os.environ.get("SKETCHMILL_FUZZ") else 4


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder with strokes, of which some come twice, and a store that was built from them."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    doodles = write_doodles(tmp_path / "doodles", CLASSES, per_class=40)
    folder = (doodles / "simplified").rename(tmp_path / "drawings")
    for path in folder.glob("*.ndjson"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines + lines[:6]) + "\n")
    assert build("first", "--seed", "1") == 0
    assert build("undisturbed") == 0
    return tmp_path


def build(store: str, *arguments: str) -> int:
    return run_command_line(["build", *OPTIONS, "--store", store, *arguments])


def contents(store: Path) -> dict[str, bytes]:
    """Return every file that consumers read."""
    found = [path for part in ("datasets", "exports", "refs") for path in (store / part).rglob("*")]
    return {str(path.relative_to(store)): path.read_bytes() for path in found if path.is_file()}


def count_words(caplog, words: str = AGAIN) -> int:
    """Return how often the log has these words since it was last asked."""
    number = caplog.text.count(words)
    caplog.clear()
    return number


def copied(source: Path, target: Path) -> Path:
    if target.exists():
        shutil.rmtree(target)
    return Path(shutil.copytree(source, target))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def places(path: Path) -> Iterator[int]:
    """Yield places all over a file, its seal among them."""
    size = path.stat().st_size
    yield from (size * step // PLACES for step in range(PLACES))
    yield size - 2


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["arrow", "npy"])
def test_attributes_and_pixels_that_were_damaged_are_made_again(root, caplog, ending):
    kept = sorted((root / "first/attempts/attributes").rglob(f"*.{ending}"))
    assert len(kept) == len(CLASSES)
    right = contents(root / "undisturbed")
    said = []
    for place in places(kept[0]):
        shutil.rmtree(root / "again", ignore_errors=True)
        copied(root / "first/attempts/attributes", root / "again/attempts/attributes")
        damaged = root / "again" / kept[0].relative_to(root / "first")
        flip(damaged, place)
        assert build("again") == 0, place
        assert contents(root / "again") == right, place
        said.append(count_words(caplog))
        mended = damaged.read_bytes() == kept[0].read_bytes()
        assert mended == (said[-1] == 1), place
    # Of decoded pixels nobody reads the header, nor the seal of those that are right.
    assert said.count(1) == len(said) if ending == "arrow" else said.count(1) >= PLACES - 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_damage_is_told_and_mended_with_workers_too(root, workers):
    """The installed command, whose workers are processes that say nothing themselves."""
    shutil.rmtree(root / "first/datasets")
    for path in (root / "first/attempts/attributes").rglob("*[0-9].*"):
        flip(path, path.stat().st_size // 2)
    sketchmill = Path(sys.executable).with_name("sketchmill")
    ran = subprocess.run(
        [sketchmill, "build", *OPTIONS, "--store", "first", "--workers", workers],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=root,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count(AGAIN) == 4
    made, right = contents(root / "first"), contents(root / "undisturbed")
    assert {path: made[path] for path in right if path.startswith("datasets")} == {
        path: right[path] for path in right if path.startswith("datasets")
    }


@pytest.mark.slow
def test_records_of_shards_that_were_damaged_are_made_again(root, caplog):
    right = contents(root / "undisturbed")
    (record,) = (root / "undisturbed/attempts/shards").rglob("train-00001-*.json")
    fields = json.loads(record.read_text().splitlines()[0])
    wrong = json.dumps(fields | {"pixel_sum": fields["pixel_sum"] + 1}, sort_keys=True)
    assert len(wrong) == len(record.read_text().splitlines()[0])
    for place in (*places(record), wrong):
        again = copied(root / "undisturbed", root / "again")
        for path in [*again.glob("datasets/*/*/manifest.json"), *again.glob("refs/*/*/*")]:
            path.unlink()
        damaged = again / record.relative_to(root / "undisturbed")
        if isinstance(place, int):
            flip(damaged, place)
        else:  # a number that a reader would believe
            damaged.write_text("\n".join([place, *record.read_text().splitlines()[1:], ""]))
        assert build("again") == 0, place
        assert contents(again) == right, place
        assert damaged.read_bytes() == record.read_bytes(), place
        assert count_words(caplog) == 1, place


@pytest.mark.slow
def test_a_plan_that_is_read_wrong_is_put_again(root, monkeypatch, caplog):
    real, read = Store.get_range, []

    def get_range(self, path, start, length):
        content = real(self, path, start, length)
        if "/blocks-" not in path:
            return content
        read.append(path)
        return content if len(read) != 2 else bytes([content[0] ^ 1]) + content[1:]

    monkeypatch.setattr(Store, "get_range", get_range)
    assert build("again") == 0
    assert contents(root / "again") == contents(root / "undisturbed")
    assert count_words(caplog) == 1


@pytest.mark.slow
def test_a_store_that_damages_all_it_keeps_is_named(root, monkeypatch, capsys):
    real = Store.put
    monkeypatch.setattr(
        Store,
        "put",
        lambda self, path, content: real(
            self, path, b"\0" + content[1:] if path.endswith(".arrow") else content
        ),
    )
    assert build("again") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sketchmill: attempts/attributes/")
    assert "is damaged: it is not what was written there" in last


@pytest.mark.slow
def test_records_and_parts_of_an_export_that_were_damaged_are_made_again(root, caplog):
    def export(store: str, *arguments: str) -> int:
        formats = ["--format", "numpy_bitmap,webdataset", "--rows-per-shard", "30"]
        return run_command_line(["export", "one", *formats, "--store", store, *arguments])

    assert export("undisturbed") == 0
    right = contents(root / "undisturbed")
    shutil.rmtree(root / "undisturbed/exports")
    shutil.rmtree(root / "undisturbed/refs/exports")
    assert export("undisturbed", "--part", "0/1") == 0
    kept = sorted(
        path for path in root.glob("undisturbed/attempts/exports/*/**/*") if path.is_file()
    )
    assert {path.suffix for path in kept} == {".json", ".bin", ".csv"}
    for path in kept:
        for place in (0, path.stat().st_size // 2, path.stat().st_size - 2):
            again = copied(root / "undisturbed", root / "again")
            flip(again / path.relative_to(root / "undisturbed"), place)
            assert export("again") == 0, path
            assert contents(again) == right, path
            assert count_words(caplog) == 1, path
