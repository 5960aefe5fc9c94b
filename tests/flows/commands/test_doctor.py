"""`sketchmill doctor` with other versions and fewer packages than the tests have."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from flows.cli import run_command_line
from flows.commands.doctor import TRAPS, examine

ROOT = Path(__file__).parents[3]
# Distributions are looked up on sys.path: a folder in front has what this machine seems to have.
CODE = """
import sys
from importlib import metadata
sys.path[:0] = [sys.argv[1]]
hidden = sys.argv[2].split(",")
find = metadata.MetadataPathFinder.find_distributions

def without(context=metadata.DistributionFinder.Context()):
    return () if context.name in hidden else find(context)

metadata.MetadataPathFinder.find_distributions = without
from flows.cli import run_command_line
sys.exit(run_command_line(["doctor", "--json", "--store", sys.argv[1] + "/store"]))
"""


def doctor(folder: Path, *, hidden: str = "", **versions: str) -> tuple[int, dict[str, dict]]:
    """Return the exit code and the findings where packages have other versions, or none."""
    for name, version in versions.items():
        metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    command = [sys.executable, "-c", CODE, str(folder), hidden]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    findings = json.loads(done.stdout.splitlines()[-1])["findings"]
    return done.returncode, {finding["check"]: finding for finding in findings}


def test_store_that_does_not_answer_is_a_finding_after_the_others(monkeypatch):
    def refuse(url: str):
        raise OSError("connection refused")

    monkeypatch.setattr("flows.commands.doctor.open_store", refuse)
    findings = list(examine("s3://nowhere"))
    assert {"python", "versions", "cores"} < {finding.check for finding in findings}
    last = findings[-1]
    assert (last.check, last.is_ok, last.message) == ("store", False, "connection refused")


LINE = '{"word": "bee", "drawing": [[[0, 255], [0, 200]]]}\n'


@pytest.mark.parametrize("variable", ["SKETCHMILL_CACHE", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("place", ["/proc/none", "file/below"])
def test_a_cache_that_cannot_be_written_names_the_variable_that_moves_it(
    variable, place, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    (tmp_path / "strokes").mkdir()
    (tmp_path / "strokes" / "bee.ndjson").write_text(LINE)  # a plan notes where its lines are
    plan = ["build", "--source", str(tmp_path / "strokes"), "--classes", "bee", "--dry-run"]
    monkeypatch.delenv("SKETCHMILL_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / place))  # an absolute place stays what it is
    for command, code in [(["build"], 2), (["run"], 2), (["doctor"], 1), (plan, 2)]:
        assert run_command_line([*command, "--store", str(tmp_path / "store"), "--quiet"]) == code
        said = "".join(capsys.readouterr())
        assert f"the cache {tmp_path / place}" in said, command
        assert "SKETCHMILL_CACHE name a folder that can" in said, command
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    assert run_command_line(["doctor", "--json", "--store", str(tmp_path / "store")]) == 0


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("fastapi", "0.151.0"),
        ("fastapi", "1.0"),
        ("sqlalchemy", "2.1.0b1"),
        ("prefect", "3.8.2"),
        ("prefect", "3.7.9.dev1"),
    ],
)
def test_version_that_breaks_prefect_fails(tmp_path, name, version):
    code, findings = doctor(tmp_path, **{name: version})
    assert code == 1
    assert not findings["versions"]["is_ok"]
    assert f"{name} {version} breaks Prefect" in findings["versions"]["message"]


def test_versions_that_break_are_those_that_pip_does_not_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = map(Requirement, project["optional-dependencies"]["flows"])
    ranges = {each.name: each.specifier for each in wanted}
    for name, (low, high) in TRAPS.items():
        edges = [".".join(map(str, edge)) for edge in (low, high)]
        assert [edge in ranges[name] for edge in edges] == [True, False], name


def test_versions_at_the_edge_of_what_works_pass(tmp_path):
    code, findings = doctor(tmp_path, fastapi="0.150.99", sqlalchemy="2.0.99", prefect="3.8.3")
    assert (code, findings["versions"]["is_ok"]) == (0, True)


@pytest.mark.parametrize(
    ("hidden", "stage"), [("torch", "train"), ("apache-beam", "build"), ("prefect", "run")]
)
def test_package_that_is_absent_is_a_note_with_the_stages_it_costs(tmp_path, hidden, stage):
    code, findings = doctor(tmp_path, hidden=hidden)
    assert code == 0
    assert hidden not in findings["versions"]["message"]
    assert findings["stages"]["is_ok"] == (not stage)
    assert not stage or f"{hidden} is absent: no {stage}" in findings["stages"]["message"]
