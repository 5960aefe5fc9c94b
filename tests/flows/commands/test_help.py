"""The help: commands in groups, examples that parse, the same words for the same option."""

import shlex

import pytest

from flows.cli import make_app, run_command_line
from flows.help import COMMANDS

GROUPS = ["Make data", "Train and measure", "Draw", "Check and export", "Store", "Schedule"]


def options_of(command: str) -> list:
    """Return the options of a command and what it takes by position."""
    found = make_app()[command].assemble_argument_collection(parse_docstring=True)
    return [each for each in found if each.show]


def test_overview_lists_the_commands_in_groups(capsys):
    run_command_line(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"─ {group} ─") for group in GROUPS]
    assert places == sorted(places)
    assert {command for command in COMMANDS if f"│ {command} " not in text} == set()
    assert "--install-completion" in text


EXAMPLES = [example for command in COMMANDS.values() for example in command.examples]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_parse(example):
    make_app().parse_args(shlex.split(example), exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples_of_its_own(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # where each of them is a line, which can be copied
    assert run_command_line([command, "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert 1 <= len(COMMANDS[command].examples) <= 3
    for example in COMMANDS[command].examples:
        assert example.split()[0] == command
        assert f"sketchmill {example}" in lines


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is(command):
    for option in options_of(command):
        text = option.parameter.help or ""
        assert text[:1].isupper() or text.startswith(("fail", "drop", "host", "key=", "png")), (
            option
        )
        assert text.endswith("."), option.name


# Options that are of another thing in another command.
OTHERWISE = {
    "--source",
    "--preset",
    "--samples-per-class",
    "--guidance",
    "--init",
    "--seed",
    "--name",
    "--workers",
    "--processes",
    "--classes",
    "--splits",
    "--format",
    "--rows-per-shard",
    "--dataset",
    "--nproc-per-node",
    "--bayes",
    "--samples",
    "--counts",
    "--temperature",
    "--shards",
    "--filters",
    "--gate",
    "--classifier",
    "--row",
    "--out",
    "--audit",
    "--class-list",
    "--sheet",
}


def test_the_same_option_has_the_same_words_everywhere():
    said: dict[str, set[str]] = {}
    for command in COMMANDS:
        for option in options_of(command):
            if option.index is None:
                said.setdefault(option.name, set()).add(" ".join(option.parameter.help.split()))
    different = {name for name, texts in said.items() if len(texts) > 1}
    assert different <= OTHERWISE, different - OTHERWISE
