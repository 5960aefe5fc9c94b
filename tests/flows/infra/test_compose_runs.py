"""The services of infra/compose.yaml as processes: their own commands, variables and packages."""

import dataclasses
import json
import re
import shutil
import sys
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
from images import ROOT, Image
from stack import load, put_in_all

from flows.stages.export import ExportParams
from pipelines.store.artifacts import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VALUES = {
    "PREFECT_AUTH": "admin:a",
    "DATABASE_PASSWORD": "b",
    "MESSAGES_PASSWORD": "c",
    "SKETCHMILL_SOURCE": "doodles",
    "SKETCHMILL_PRESET": "tiny",
}
SMALL = ["num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8", "budget_nimg=16"]
CHAIN = {
    "classes": ["sun", "lightning"],
    "max_per_class": 100,
    "samples_per_class": 1,
    "settings": SMALL,
}


class Stack:
    """Services on loopback, each in an environment with the packages of its image alone."""

    def __init__(self, folder: Path, places: dict[str, str]) -> None:
        self.folder, self._places = folder, places
        self.compose = put_in_all(load("compose.yaml"), VALUES)
        self.images = {floor: Image(floor, folder / floor) for floor in ("pipelines", "model")}

    def start(self, name: str):
        """Run a service for as long as the block."""
        image, command, environment = self._prepared(name)
        log = self.folder / f"{name}.log"
        return image.running(*command, folder=ROOT, log=log, **environment)

    def finish(self, name: str, *command: str, given: str = "") -> str:
        """Run a service to its end, or another command in its place; return what it printed."""
        image, own, environment = self._prepared(name)
        done = image.run(*(command or own), folder=ROOT, given=given, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _prepared(self, name: str) -> tuple[Image, list[str], dict[str, str]]:
        service = self.compose["services"][name]
        text = json.dumps([service["command"], service["environment"]])
        for there, here in self._places.items():
            text = text.replace(there, here)
        command, environment = json.loads(text)
        environment |= servers.QUICK_WORKER | {
            "HOME": str(self.folder),
            "PREFECT_HOME": str(self.folder / f"prefect-{name}"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        (floor,) = re.findall(r"^sketchmill-(\w+):", service["image"])
        return self.images[floor], command, environment


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200
    return False


def test_services_run_the_whole_chain_and_the_export_without_a_gpu(tmp_path):
    """Database, messages, both processes of the server, the bootstrap, and a worker of each pool.

    The stages that prefect.yaml places on a pool need nothing of the other image.
    """
    if servers.postgres_programs() is None or shutil.which("redis-server") is None:
        pytest.skip("needs Debian's postgresql and redis-server: infra/ci-packages")
    redis, port, store = servers.free_port(), servers.free_port(), tmp_path / "store"
    with ExitStack() as stack:
        database = stack.enter_context(servers.postgres(tmp_path / "postgres"))
        site = Stack(
            tmp_path,
            {
                "postgresql+asyncpg://prefect:b@database:5432/prefect": database,
                "messages:6379": f"127.0.0.1:{redis}",
                "http://server:4200": f"http://127.0.0.1:{port}",
                '"0.0.0.0"': f'"127.0.0.1", "--port", "{port}"',
                '"/store"': f'"{store}"',
            },
        )
        conf = tmp_path / "redis.conf"
        own = site.compose["configs"]["messages"]["content"]
        conf.write_text(f"{own}\nport {redis}\nbind 127.0.0.1\ndir {tmp_path}\n")
        log = tmp_path / "messages.log"
        image = site.images["pipelines"]
        stack.enter_context(image.running("redis-server", str(conf), folder=tmp_path, log=log))
        stack.enter_context(site.start("server"))
        health = f"http://127.0.0.1:{port}/api/health"
        servers.wait_until(lambda: answers(health), servers.START_SEC, "the server")
        stack.enter_context(site.start("services"))
        assert "nightly" in site.finish("bootstrap")
        stack.enter_context(site.start("worker-cpu"))
        stack.enter_context(site.start("worker-gpu"))
        params = json.dumps({"chain": CHAIN | {"store": str(store), "source": "doodles"}})
        run = ["prefect", "deployment", "run", "rebuild/nightly", "--params", params, "--watch"]
        site.finish("bootstrap", *run)
        assert list(store.glob("reports/*/*/manifest.json"))
        samples = open_store(str(store)).latest("samples", "doodles-tiny")
        params = ExportParams(store=str(store), name="net", ref=f"samples/{samples.digest}")
        given = json.dumps(dataclasses.asdict(params))
        for worker, stage in (("worker-gpu", "audit"), ("worker-cpu", "export")):
            said = site.finish(
                worker, "python", "-m", "flows.deployments.child", stage, given=given
            )
        exported = json.loads(said.splitlines()[-1])["result"]
        assert exported["summary"]["num_drawings"] == 2
