"""Two hosts, each in a network namespace of its own, train one model over a real rendezvous."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.stages.train import TrainParams, train_spec
from model.options import RunOptions
from model.training.train import train_model

pytestmark = pytest.mark.slow

# Twenty seconds on a quiet machine; torch is imported six times on two cores.
LIMIT_SEC = 500
HOSTS = (("skm-a", "skm-va", "10.77.13.1"), ("skm-b", "skm-vb", "10.77.13.2"))
OPTIONS = RunOptions(num_threads=1, tensorboard=False, num_grids=0)
SETTINGS = (
    "precision=float64",
    "num_filters=4",
    "num_hierarchies=2",
    "budget_nimg=48",
    "batch_size=8",
    "init_nimg=16",
)


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
    """Start the command line on one of the hosts, as a person does on each."""
    name, link, address = HOSTS[index]
    command = ["ip", "netns", "exec", name, sys.executable, "-c"]
    command += ["from flows.cli import main; main()", "train", *arguments, "--nproc-per-node=1"]
    command += ["--nnodes=2", f"--rdzv-endpoint={HOSTS[0][2]}:29513", "--rdzv-id=skm"]
    command += [f"--rdzv-conf=is_host={int(index == 0)}", f"--local-addr={address}"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": link, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def test_two_hosts_follow_the_curve_of_one(hosts, store, make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(store)
    params = TrainParams(preset="tiny", settings=SETTINGS)
    alone = train_model(train_spec(params, dataset, None), dataset, store, "alone", options=OPTIONS)
    arguments = ["--store", store.url, "--dataset", dataset.name, "--name", "hosts"]
    arguments += ["--preset", params.preset, *(f"--set={setting}" for setting in SETTINGS)]
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    agents = [start_host(index, arguments, log) for index, log in enumerate(logs)]
    try:
        codes = [agent.wait(LIMIT_SEC) for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()
    assert codes == [0, 0], "\n".join(log.read_text()[-2_000:] for log in logs)
    shared = store.find("models", "hosts", alone.digest)
    assert shared is not None
    assert shared.summary["num_ranks"] == 2
    for name in ("test_bits_per_dim", "validation_bits_per_dim"):
        assert shared.summary[name] == pytest.approx(alone.summary[name], abs=1e-9)
