"""Makes the shared cases importable, and stores of every sort to run them on."""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ceph

from pipelines.store import Store, open_store

BUCKET = "sketchmill"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[ceph.S3Server]:
    """A real S3 server with a bucket; the environment lets clients find it."""
    if reason := ceph.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("ceph") / "cluster"
    with ceph.ceph(folder) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        create_bucket(server)
        yield server


def create_bucket(server: ceph.S3Server) -> None:
    import boto3

    boto3.client("s3", endpoint_url=server.endpoint).create_bucket(Bucket=BUCKET)


@pytest.fixture(params=["directory", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def new_store(request, tmp_path) -> Callable[[], Store]:
    """Return a function that opens a new, empty store of one sort at each call."""

    def directory() -> Store:
        return open_store(str(tmp_path / uuid.uuid4().hex))

    def memory() -> Store:
        return open_store("memory://")

    def s3() -> Store:
        return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")

    if request.param == "s3":
        request.getfixturevalue("s3_server")
    return {"directory": directory, "memory": memory, "s3": s3}[request.param]


@pytest.fixture
def store(new_store) -> Store:
    """An empty store of each sort."""
    return new_store()


@pytest.fixture
def local_store(tmp_path) -> Store:
    """An empty store in a directory."""
    return open_store(os.fspath(tmp_path / "store"))
