"""What commands say: progress lines, results, exit codes."""

import json

import pytest

from flows.cli import run_command_line
from flows.terminal import LogLines, print_result


def test_log_lines_show_the_first_call_and_the_end_once(capsys):
    progress = LogLines()
    for done in (0, 1, 2, 10, 10):
        progress("build", done, 10, "fast")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "100%" in lines[1]


def test_json_result_is_one_object_on_the_last_line(capsys):
    print_result({"b": 1, "a": ["x"]}, as_json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"a": ["x"], "b": 1}


def test_bad_usage_exits_with_2_and_no_traceback(capsys):
    assert run_command_line(["classes", "--no-such-option"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [["--help"], ["--version"]])
def test_help_and_version_exit_with_0(command):
    assert run_command_line(command) == 0
