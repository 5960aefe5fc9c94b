"""Makes the shared cases importable, and stores of every sort to run them on."""

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ceph
from ceph import BUCKET
from s3_faults import Faults, faulty

from pipelines.sources.doodles.make import google_npy
from pipelines.store.artifacts import Store, open_store
from pipelines.store.backends import RETRY_CONFIG


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


@pytest.fixture
def faults(s3_server, monkeypatch) -> Iterator[Faults]:
    """The proxy that new stores on S3 talk through; what it spoils is asked again at once."""
    soon = {name: timedelta(milliseconds=5) for name in ("init_backoff", "max_backoff")}
    monkeypatch.setitem(RETRY_CONFIG, "backoff", RETRY_CONFIG["backoff"] | soon)
    with faulty(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


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


@pytest.fixture
def write_npy_files(tmp_path) -> Callable[[Sequence[str], int], Path]:
    """Return a function that writes files in Google's layout and returns their directory.

    It writes as many random drawings of each class as asked, three tenths of them ink, decided
    by the name of the class. A fixture and not a module: Beam's worker processes import the
    modules of tests alone, without the folders that this file adds to the path.
    """

    def write(class_names: Sequence[str], rows: int) -> Path:
        directory = tmp_path / "source"
        directory.mkdir()
        for name in class_names:
            rng = np.random.default_rng(list(name.encode()))
            images = rng.integers(0, 256, (rows, 28, 28), np.uint8)
            images[rng.random(images.shape) < 0.7] = 0
            (directory / f"{name}.npy").write_bytes(google_npy(images))
        return directory

    return write
