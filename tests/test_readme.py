"""The README's commands: each one parses, the small ones run, each command is mentioned."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from flows.cli import COMMANDS, make_app, run_command_line
from flows.commands.sources import source_rows
from model.shipped import publish_shipped
from pipelines.store.artifacts import open_store

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """Return the README's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def readme_commands() -> list[list[str]]:
    """Return the words of every `sketchmill` line in the README's shell blocks.

    Variables may stand before the command.
    """
    lines = [line.split("  #")[0] for block in blocks("sh") for line in block.splitlines()]
    words = [shlex.split(line) for line in lines]
    return [each for each in words if "sketchmill" in each]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The directory of a user, with the files that the README shows or takes for granted."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for block in blocks("toml"):
        Path(block.splitlines()[0].removeprefix("# ")).write_text(block)
    Path("birds.txt").write_text("owl\nduck\nswan\n")
    return tmp_path


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_readme_command_parses(words, folder):
    arguments = words[words.index("sketchmill") + 1 :]
    make_app().parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.slow
@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_readme_command_runs(words, folder, monkeypatch, quickdraw_sample):
    """What takes a network or minutes is planned, the rest done."""
    real = str(quickdraw_sample / "rendered" / "numpy_bitmap")
    words = [real if word == "/data/numpy_bitmap" else word for word in words]
    start = words.index("sketchmill")
    for name, _, value in (word.partition("=") for word in words[:start]):
        monkeypatch.setenv(name, value)
    told = words[start + 1 :]
    if told[0] == "run" and "--dry-run" not in told:
        told.append("--dry-run")
    if told[0] == "push":
        publish_shipped("tiny-20", open_store("store"))
    assert run_command_line([*told, "--quiet"]) == 0


def python_blocks(title: str) -> list[str]:
    """Return the Python blocks of a section of the README."""
    (section,) = re.findall(rf"^## {title}$(.*?)^## ", README.read_text(), re.DOTALL | re.MULTILINE)
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.mark.slow
def test_the_section_on_python_draws_builds_and_exports(tmp_path, monkeypatch):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    *blocks, export = python_blocks("From Python")
    exec("\n".join(blocks), names)
    assert names["drawings"].names == ["bee", "sun"] * 3
    assert Path("bee.png").read_bytes().startswith(b"\x89PNG")
    assert names["made"].summary["class_names"] == ["bee", "sun"]
    assert len(names["images"]) == names["dataset"].splits["train"] > 70
    exec(export, names)
    nats = names["model"].log_prob(names["drawings"].images, names["drawings"].labels)
    assert names["nats"].tolist() == pytest.approx(nats.tolist(), rel=1e-4)


@pytest.mark.slow
def test_the_python_of_the_readme_reads_what_build_makes(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "huggingface")
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["build", "--classes", "sun", "--max-per-class", "50", "--quiet"]) == 0
    (manifest,) = Path("store/datasets/doodles").glob("*/manifest.json")
    (block,) = python_blocks("What comes out")
    names: dict = {}
    exec(block.replace("<digest>", manifest.parent.name), names)
    assert names["drawings"][0]["image"].size == (28, 28)
    assert 40 <= len(names["drawings"]) <= 50


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_in_the_readme(command):
    assert f"`sketchmill {command}`" in README.read_text()


def test_make_targets_of_the_readme_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z]+)", README.read_text())):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_make_run_passes_classes_on():
    command = ["make", "--dry-run", "--old-file=.venv/.run", "run", "CLASSES=bee,sea turtle"]
    done = subprocess.run(command, cwd=README.parent, capture_output=True, text=True, check=True)
    assert 'sketchmill run --classes "bee,sea turtle"' in done.stdout


def test_pictures_of_the_readme_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(), flags=re.DOTALL):
        assert (README.parent / path).exists(), path


def test_the_table_of_sources_is_what_the_command_lists():
    rows = re.findall(
        r"^\| `(\w+)` \| (.+?) \| (.+?) \| ([\d, to]+) \|$", README.read_text(), re.MULTILINE
    )
    expected = [
        (row["source"], row["say"], row["checked"], row["drawings_per_sec"])
        for row in source_rows()
    ]
    assert rows == expected
