"""Linked datasets, their classes and two formats at once, through the commands that read them."""

import json
from pathlib import Path

import pytest

from flows.cli import run_command_line
from pipelines.drawings.parquet import open_shard
from pipelines.export.spec import FORMATS

# What tells which dataset it was made of.
TELLING = ("README.md", "manifest.json", "provenance.json", "croissant.json", "export.toml")


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command which answers with JSON."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict:
        quiet = ["--quiet"] if arguments[0] in ("build", "export") else []
        code = run_command_line([*arguments, *quiet, "--store", "store", "--json"])
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out.splitlines()[-1])

    return run


@pytest.fixture
def built(ask):
    """A store with the classes bee and sun, linked as `one`; the shorter `two`; `sun` packed."""
    ask(
        "build",
        "--classes",
        "bee,sun",
        "--max-per-class",
        "60",
        "--layout",
        "linked",
        "--name",
        "one",
    )
    ask("build", "--classes", "sun", "--max-per-class", "60", "--name", "alone")
    return ask


@pytest.mark.slow
def test_a_class_of_a_linked_dataset_is_exported_as_a_packed_one(built, tmp_path):
    for name in ("class-sun", "alone"):
        formats = ["--format", ",".join(FORMATS), "--name", "sun"]
        found = built("export", name, *formats, "--out", name)
        assert found["drawings"] == 60
    exported = {name: files_of(tmp_path / name) for name in ("class-sun", "alone")}
    assert exported["class-sun"] == exported["alone"]
    assert {path.split("/")[0] for path in exported["alone"]} > set(FORMATS) - {"hf"}
    for path in (tmp_path / "alone/hf/data").iterdir():
        linked = open_shard(tmp_path / "class-sun/hf/data" / path.name).read()
        assert linked.equals(open_shard(path).read(), check_metadata=True), path


def files_of(root: Path) -> dict[str, bytes]:
    """Return the files of an export but those of hf, which may be copied or written anew."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    kept = {name: path for name, path in found.items() if not name.startswith("hf/")}
    return {name: path.read_bytes() for name, path in kept.items() if name not in TELLING}


@pytest.mark.slow
def test_drawings_of_linked_datasets_are_compared(built):
    short = ["--max-per-class", "50", "--layout", "linked", "--name", "two"]
    built("build", "--classes", "bee,sun", *short)
    found = built("diff", "one", "two", "--drawings")
    assert sum(found["only left"].values()) == 20
    assert sum(found["only right"].values()) == 0
    assert not found["same drawings"]
    found = built("diff", "class-sun", "alone", "--drawings")
    assert not found["same drawings"]  # the latest class-sun is the shorter one's
    assert sum(found["only right"].values()) == 10
    assert not any(built("verify")["problems"].values())


@pytest.mark.slow
def test_drawings_that_are_there_in_two_formats_are_counted_once(ask, capsys):
    options = ["--classes", "bee,sun", "--max-per-class", "60", "--format", "parquet,tfrecord"]
    made = ask("build", *options, "--name", "both")
    assert sum(made["drawings"].values()) == 120
    ask("build", "--classes", "bee,sun", "--max-per-class", "60", "--name", "one")
    rows = {each["name"]: each["rows"] for each in ask("ls")["artifacts"]}
    assert rows == {"both": 120, "one": 120}
    assert ask("diff", "both", "one")["rows"] == {}
    ask("export", "both", "--format", "idx,webdataset")
    rows = {each["kind"]: each["rows"] for each in ask("ls")["artifacts"]}
    assert rows == {"datasets": 120, "exports": 120}
    assert run_command_line(["diff", "datasets/both", "one", "--drawings", "--store", "store"]) == 0
    assert "\nsame drawings  True\n" in capsys.readouterr().out
