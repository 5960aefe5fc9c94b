"""infra/kubernetes and infra/helm: what pods are like, and that Prefect's server takes it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
from sites import client, fire_soon, settings_of

INFRA = Path(__file__).parents[3] / "infra"
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
POOLS = ("cpu", "gpu")


def accept(manifest: dict) -> None:
    """Raise unless Kubernetes knows every field of a manifest and its type."""
    reason = "pip install kubernetes-validate"
    pytest.importorskip("kubernetes_validate", reason=reason).validate(
        manifest, "1.33", strict=True
    )


def template(pool: str) -> dict:
    return json.loads((INFRA / f"kubernetes/pool-{pool}.json").read_text())


def job(pool: str, **variables) -> dict:
    """Return the job of a flow run, put together as Prefect does from template and variables."""
    from prefect.utilities.templating import apply_values

    properties = template(pool)["variables"]["properties"]
    values = {name: each["default"] for name, each in properties.items() if "default" in each}
    values |= {"name": "merry-cat", "labels": {"prefect.io/flow-run-id": "1"}, "annotations": {}}
    values |= {"command": ["prefect", "flow-run", "execute"]} | variables
    # The worker makes Kubernetes's list of the variables.
    values["env"] = [{"name": name, "value": value} for name, value in values["env"].items()]
    return apply_values(template(pool)["job_configuration"]["job_manifest"], values)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_kubernetes_accepts_the_manifest(file):
    for manifest in yaml.safe_load_all(file.read_text()):
        accept(manifest)


@pytest.mark.parametrize("pool", POOLS)
def test_kubernetes_accepts_the_job_of_a_flow_run(pool):
    accept(job(pool))
    assert "{{" not in json.dumps(job(pool))


@pytest.mark.parametrize(("pool", "floor"), [("cpu", "pipelines"), ("gpu", "model")])
def test_pod_has_the_image_the_secrets_and_the_cache(pool, floor):
    pod = job(pool)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"].endswith(f"/sketchmill-{floor}:0.1.0")
    assert container["envFrom"] == [{"secretRef": {"name": "sketchmill-store"}}]
    assert not [each for each in container["env"] if "AUTH" in each["name"]]
    assert pod["securityContext"]["runAsNonRoot"] is True
    claims = [yaml.safe_load(file.read_text()) for file in MANIFESTS if file.stem == "cache"]
    volume = next(each for each in pod["volumes"] if each["name"] == "cache")
    assert volume["persistentVolumeClaim"]["claimName"] == claims[0]["metadata"]["name"]
    place = next(each["mountPath"] for each in container["volumeMounts"] if each["name"] == "cache")
    assert f"XDG_CACHE_HOME={place}" in (INFRA / f"Dockerfile.{floor}").read_text()


def test_only_the_pool_gpu_asks_for_gpus():
    limits = {
        pool: job(pool)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        for pool in POOLS
    }
    assert "nvidia.com/gpu" not in limits["cpu"]
    assert limits["gpu"]["nvidia.com/gpu"] == "1"


def test_a_run_may_ask_for_more():
    eight = {"limits": {"nvidia.com/gpu": "8"}}
    pod = job("gpu", resources=eight)["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == eight


def test_templates_of_the_pools_differ_in_their_defaults_alone():
    cpu, gpu = template("cpu"), template("gpu")
    assert cpu["job_configuration"] == gpu["job_configuration"]
    differing = [
        name
        for name, each in cpu["variables"]["properties"].items()
        if each != gpu["variables"]["properties"][name]
    ]
    assert differing == ["image", "resources", "tolerations"]


def test_worker_hands_the_password_on_as_a_secret():
    worker = yaml.safe_load((INFRA / "helm/worker.yaml").read_text())["worker"]
    own = worker["selfHostedServerApiConfig"]["basicAuth"]["existingSecret"]
    variables = {each["name"]: each["value"] for each in worker["extraEnvVars"]}
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert (variables[f"{prefix}_NAME"], variables[f"{prefix}_KEY"]) == (own, "auth-string")


def test_worker_has_the_pinned_prefect():
    tag = yaml.safe_load((INFRA / "helm/worker.yaml").read_text())["worker"]["image"]["prefectTag"]
    constraints = (INFRA.parent / "constraints.txt").read_text().splitlines()
    assert f"prefect=={tag.partition('-')[0]}" in constraints


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with SQLite, to which the commands of README.md for a cluster were given."""
    made = servers.PrefectServer(tmp_path_factory.mktemp("server"), database=None)
    made.start()

    def run(*command: str) -> None:
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run(
            [program, *command[1:]],
            cwd=INFRA.parent,
            env=os.environ | made.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        for pool in (*POOLS, "gpu"):  # one of them again
            file = f"infra/kubernetes/pool-{pool}.json"
            create = ["prefect", "work-pool", "create", pool, "--type", "kubernetes"]
            run(*create, "--overwrite", "--base-job-template", file)
        run("sketchmill", "deploy", "--pool-type", "kubernetes", "--store", "s3://bucket/store")
        with settings_of(made.environment):
            yield made
    finally:
        made.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_server_takes_the_pools_and_the_deployments(server):
    with client() as api:
        for pool in POOLS:
            found = api.read_work_pool(pool)
            assert found.type == "kubernetes"
            assert found.base_job_template == template(pool)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_schedule_offers_a_run_to_the_workers_with_sqlite(server):
    """The run that a worker would start; how it starts it has nothing to do with the database."""
    fire_soon()

    def offered() -> list:
        now = datetime.now(UTC)
        return api.get_scheduled_flow_runs_for_work_pool("cpu", ["housekeeping"], now)

    with client() as api:
        servers.wait_until(offered, 60, "a scheduled run")
        (found,) = offered()
    assert found.flow_run.auto_scheduled
