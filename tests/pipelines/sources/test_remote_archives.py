"""Tars, IDX and records in a store of objects."""

import gzip
import struct
import sys
from pathlib import Path

import boto3
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))
sys.path.insert(0, str(Path(__file__).parent))

from built import Builder, named, some_drawings
from ceph import BUCKET
from tars import picture, samples_of, write_tar

from pipelines.drawings.tfrecord import example, frame

pytestmark = pytest.mark.slow

IMAGES = some_drawings(300)
CLASSES = ["bee", "sun"] * 150


def files_of(kind: str, folder: Path) -> dict[str, bytes]:
    """Return the files of a source of 300 drawings by name."""
    if kind == "tar":
        path = write_tar(folder / "a.tar", list(samples_of(IMAGES, CLASSES)))
        return {"data/train-0.tar": path.read_bytes()}
    if kind == "records":
        numbered = zip(IMAGES, [0, 1] * 150, strict=True)
        return {"train.tfrecord": frame([example(picture(i), n) for i, n in numbered])}
    pixels = struct.pack(">BBBBIII", 0, 0, 8, 3, *IMAGES.shape) + IMAGES.tobytes()
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 300) + bytes([0, 1] * 150)
    files = {"train-images-idx3-ubyte": pixels, "train-labels-idx1-ubyte": labels}
    if kind == "idx.gz":
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    return {f"raw/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("kind", ["tar", "idx", "idx.gz", "records"])
def test_a_source_on_s3_is_read_like_a_local_one(s3_server, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    build = Builder(tmp_path, capsys)
    client = boto3.client("s3", endpoint_url=s3_server.endpoint)
    for name, content in files_of(kind, tmp_path).items():
        client.put_object(Bucket=BUCKET, Key=f"far-{kind}/{name}", Body=content)
    url = f"s3://{BUCKET}/far-{kind}"
    given = () if kind == "tar" else ("--label-names", "bee,sun")
    assert build.drawings(url, *given, "--name", "far") == named(IMAGES, CLASSES)
    code, answer = build(url, *given, "--name", "far", "--splits", "source")
    assert (code, answer["drawings"]) == (0, {"train": 300})
