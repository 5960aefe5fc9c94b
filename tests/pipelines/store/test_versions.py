"""One version, and what says it."""

import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from flows.cli import run_command_line
from pipelines.store import versions

ROOT = Path(__file__).parents[3]
RELEASED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture
def version_of(monkeypatch):
    """Return a function that returns the version of a copy of this program in a folder."""

    def version(folder: Path) -> str:
        monkeypatch.setattr(versions, "_CHECKOUT", folder)
        versions.own_version.cache_clear()
        return versions.own_version()

    yield version
    versions.own_version.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    done = subprocess.run(["git", *own, *arguments], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_checkout_tells_its_commit_and_whether_files_have_changed(version_of, tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "One")
    git(tmp_path, "tag", "v9")
    commit = git(tmp_path, "rev-parse", "--short=7", "HEAD")
    assert version_of(tmp_path) == f"{RELEASED}+g{commit}"
    (tmp_path / "new").write_text("not tracked")
    assert version_of(tmp_path) == f"{RELEASED}+g{commit}"
    (tmp_path / "file").write_text("2")
    assert version_of(tmp_path) == f"{RELEASED}+g{commit}.dirty"
    # An environment below a checkout of another project.
    below = tmp_path / "site-packages"
    below.mkdir()
    assert version_of(below) == RELEASED


@pytest.mark.parametrize("content", ["gitdir: /nowhere", ""])
def test_damaged_checkout_and_missing_metadata_fail_nothing(
    version_of, tmp_path, monkeypatch, content
):
    def missing(name: str):
        raise metadata.PackageNotFoundError(name)

    (tmp_path / ".git").write_text(content)
    assert version_of(tmp_path) == RELEASED
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert version_of(tmp_path) == RELEASED
    monkeypatch.setattr(metadata, "version", missing)
    assert version_of(tmp_path) == versions.UNKNOWN


def test_command_line_prints_the_version_that_manifests_have(capsys):
    assert run_command_line(["--version"]) == 0
    assert capsys.readouterr().out == f"{versions.own_version()}\n"
    assert versions.versions_of("pyarrow") | {"python": ""} == {
        "python": "",
        "sketchmill": versions.own_version(),
        "pyarrow": metadata.version("pyarrow"),
    }


def test_files_that_tell_the_version_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (metadata.version("sketchmill"), citation["version"]) == (RELEASED, RELEASED)
    assert f"## {RELEASED}" in (ROOT / "CHANGELOG.md").read_text()
