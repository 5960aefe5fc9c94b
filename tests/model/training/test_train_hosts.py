"""Two hosts, each in a network namespace of its own, train one model over a real rendezvous."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.options import RunOptions, options_to_json
from model.spec import spec_to_json
from model.train import train_model

pytestmark = pytest.mark.slow

HOSTS = (("skm-a", "skm-va", "10.77.13.1"), ("skm-b", "skm-vb", "10.77.13.2"))
OPTIONS = RunOptions(num_threads=1, tensorboard=False)


def run_ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces joined by a cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    try:
        for name, _, _ in HOSTS:
            run_ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine allows no network namespaces: {error.stderr.decode()}")
    try:
        run_ip("link", "add", HOSTS[0][1], "type", "veth", "peer", "name", HOSTS[1][1])
        for name, link, address in HOSTS:
            run_ip("link", "set", link, "netns", name)
            run_ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            run_ip("-n", name, "link", "set", link, "up")
            run_ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name, _, _ in HOSTS:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def start_host(index: int, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    name, link, address = HOSTS[index]
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=skm"]
    command += [f"--rdzv-endpoint={HOSTS[0][2]}:29513", f"--rdzv-conf=is_host={int(index == 0)}"]
    command += [f"--local-addr={address}", "-m", "model.train", *arguments]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": link, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def test_two_hosts_follow_the_curve_of_one(
    hosts, store, make_dataset, small_spec, tmp_path: Path
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "precision=float64", "budget_nimg=48")
    alone = train_model(spec, dataset, store, "alone", options=OPTIONS)
    spec_path = tmp_path / "spec.json"
    spec_path.write_text(json.dumps(spec_to_json(spec)))
    arguments = ["--store", store.url, "--dataset", f"{dataset.name}@{dataset.digest}"]
    arguments += ["--name", "hosts", "--spec-json", str(spec_path)]
    arguments += ["--options-json", options_to_json(OPTIONS)]
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    agents = [start_host(index, arguments, log) for index, log in enumerate(logs)]
    try:
        codes = [agent.wait(200) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert codes == [0, 0], "\n".join(log.read_text()[-2_000:] for log in logs)
    shared = store.find("models", "hosts", alone.digest)
    assert shared is not None
    assert shared.summary["num_ranks"] == 2
    for name in ("test_bits_per_dim", "validation_bits_per_dim"):
        assert shared.summary[name] == pytest.approx(alone.summary[name], abs=1e-9)
