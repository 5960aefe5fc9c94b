"""The README's commands: each one parses, the small ones run, each command is mentioned."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import COMMANDS, make_app, run_command_line

README = Path(__file__).parents[1] / "README.md"


def readme_commands() -> list[list[str]]:
    """Return the arguments of every `sketchmill` line in the README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), flags=re.DOTALL)
    lines = [line.split("  #")[0] for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("sketchmill ")]


@pytest.mark.parametrize("arguments", readme_commands(), ids=" ".join)
def test_readme_command_parses(arguments):
    make_app().parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["classes", "sea"], ["build", "--classes", "sun"]])
def test_readme_command_runs(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    assert run_command_line([*arguments, "--store", str(tmp_path / "store"), "--quiet"]) == 0


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_in_the_readme(command):
    assert f"`sketchmill {command}`" in README.read_text()


def test_make_targets_of_the_readme_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z]+)", README.read_text())):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_pictures_of_the_readme_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(), flags=re.DOTALL):
        assert (README.parent / path).exists(), path
