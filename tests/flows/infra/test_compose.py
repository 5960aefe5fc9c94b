"""infra/compose*.yaml: valid, safe by default, a worker for every pool."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines"))

import ceph
from stack import VARIABLE, load, put_in_all

from flows.cli import run_command_line
from flows.commands.deployments import FILE

FILES = ("compose.yaml", "compose.gpu.yaml", "compose.s3.yaml")
CLIENTS = ("bootstrap", "worker-cpu", "worker-gpu")
SECRETS = {"PREFECT_AUTH": "admin:a", "DATABASE_PASSWORD": "b", "MESSAGES_PASSWORD": "c"}
S3_SECRETS = {"AWS_ACCESS_KEY_ID": "d", "AWS_SECRET_ACCESS_KEY": "e"}


@pytest.fixture(scope="module")
def compose() -> dict:
    return load(*FILES)


@pytest.mark.parametrize("file", [*FILES, "compose.dask.yaml"])
def test_compose_file_follows_the_specification(file):
    specification = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    model = specification.ComposeSpecification.model_validate(load(file))
    assert set(model.services) == set(load(file)["services"])


def test_compose_publishes_on_loopback_alone(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_publishes_nothing_of_a_dask_cluster():
    services = load("compose.dask.yaml")["services"]
    assert set(services) == {"scheduler", "worker", "build"}
    assert not any("ports" in service for service in services.values())
    assert {service["image"] for service in services.values()} == {"sketchmill-pipelines:0.1.0"}


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
    for name in CLIENTS:
        environment = compose["services"][name]["environment"]
        assert environment["PREFECT_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?"), name
        assert environment["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] == "true", name


@pytest.mark.parametrize(
    ("files", "secrets"), [(FILES[:1], SECRETS), (FILES, SECRETS | S3_SECRETS)]
)
def test_nothing_starts_without_each_secret(files, secrets):
    put_in_all(load(*files), secrets)
    for name in secrets:
        with pytest.raises(ValueError, match=name):
            put_in_all(load(*files), {k: v for k, v in secrets.items() if k != name})


@pytest.mark.parametrize("name", ["messages", "s3"])
def test_every_server_beside_prefect_has_a_password(compose, name):
    content = compose["configs"][name]["content"]
    assert VARIABLE.search(content)[2] == "?"
    assert compose["services"][name]["configs"][0]["target"] in " ".join(
        compose["services"][name]["command"]
    )


def test_every_pool_has_a_worker_without_a_gpu():
    """`docker compose up -d` with the first file alone must run every stage of the chain."""
    services = load("compose.yaml")["services"].values()
    on_by_default = [each for each in services if not each.get("profiles")]
    assert not [each for each in on_by_default if "deploy" in each]
    commands = [" ".join(each["command"]) for each in on_by_default if "command" in each]
    pools = {match[1] for text in commands if (match := re.search(r"--pool (\w+)", text))}
    deployments = FILE.read_text()
    assert pools == set(re.findall(r"^      name: (\w+)$", deployments, re.MULTILINE))


def test_gpu_file_gives_the_worker_the_gpus():
    worker = load("compose.yaml", "compose.gpu.yaml")["services"]["worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "--pool" in worker["command"]


def test_s3_file_puts_every_client_on_the_server_it_starts():
    services = load("compose.yaml", "compose.s3.yaml")["services"]
    for name in CLIENTS:
        assert services[name]["environment"]["AWS_ENDPOINT_URL"] == "http://s3:8333", name
    assert services["bootstrap"]["depends_on"]["bucket"] == {
        "condition": "service_completed_successfully"
    }
    assert "server" in services["bootstrap"]["depends_on"]


@pytest.mark.slow
def test_bucket_is_made_once_and_found_again(tmp_path, monkeypatch):
    if reason := ceph.why_not():
        pytest.skip(reason)
    bucket = load("compose.s3.yaml")["services"]["bucket"]
    with ceph.ceph(tmp_path / "cluster") as server:
        given = server.environment() | {"AWS_ENDPOINT_URL": server.endpoint}
        own = {name: given[name] for name in bucket["environment"]}
        for _ in range(2):
            command = [sys.executable, *bucket["command"][1:]]
            done = subprocess.run(command, env=own, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        assert run_command_line(["doctor", "--store", "s3://sketchmill/store"]) == 0
