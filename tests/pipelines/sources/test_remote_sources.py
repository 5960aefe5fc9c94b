"""Sources on servers: a store of objects, a web server, and what both say when they fail."""

import csv
import gzip
import http.server
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stroke_cases import some_strokes

from flows.cli import run_command_line
from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.verify import verify_dataset
from pipelines.drawings.parquet import IMAGE_TYPE
from pipelines.drawings.stored_png import encode_pngs
from pipelines.sources.base import SourceOptions
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.files import RemoteError
from pipelines.sources.registry import open_reader, open_source, source_classes
from pipelines.store.artifacts import open_store
from pipelines.store.backends import RETRY_CONFIG


def some_drawings(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    return images


def parquet_of(images: np.ndarray, names: list[str]) -> bytes:
    pictures = [{"bytes": png.tobytes(), "path": None} for png in encode_pngs(images)]
    sink = pa.BufferOutputStream()
    table = pa.table({"image": pa.array(pictures, IMAGE_TYPE), "label": names})
    pq.write_table(table, sink, row_group_size=50)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def web(tmp_path):
    """A web server of a directory that answers with ranges; (directory, address)."""
    root = tmp_path / "web"
    root.mkdir()

    class Files(http.server.SimpleHTTPRequestHandler):
        """Adds ranges to the standard library's server."""

        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            pass

        def do_GET(self):
            content = Path(self.translate_path(self.path)).read_bytes()
            low, high = self.headers["Range"].removeprefix("bytes=").split("-")
            part = content[int(low) : int(high) + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {low}-{high}/{len(content)}")
            self.send_header("Last-Modified", self.date_time_string(0))
            self.end_headers()
            self.wfile.write(part)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_files_over_http_are_read_by_ranges(tmp_path, web):
    root, url = web
    images = some_drawings(200)
    (root / "sea turtle.npy").write_bytes(google_npy(images))
    source = open_source(url, ["sea turtle"], tmp_path / "cache")
    reader = open_reader(source.files[0], 28)
    assert np.array_equal(reader.read(3, 90).images, images[3:90])
    rows = np.array([1, 2, 3, 70, 199])
    assert np.array_equal(reader.read_rows(rows), images[rows])


def test_files_of_one_size_and_time_on_a_server_are_two_files(tmp_path, web):
    root, address = web
    images = {"bee": some_drawings(30), "sun": some_drawings(30, seed=1)}
    for name, drawings in images.items():
        (root / f"{name}.npy").write_bytes(google_npy(drawings))
        os.utime(root / f"{name}.npy", (1_700_000_000, 1_700_000_000))
    source = open_source(address, list(images), tmp_path / "cache")
    assert source.files[0].digest == source.files[1].digest
    spec = DatasetSpec(class_names=tuple(images))
    manifest = build_dataset(spec, source, open_store(str(tmp_path / "store")), "web")
    assert {
        name: sum(by[name] for by in manifest.summary["counts"].values()) for name in images
    } == {
        "bee": 30,
        "sun": 30,
    }


def test_parquet_over_http_is_read_from_the_address_of_a_file(tmp_path, web):
    root, url = web
    images = some_drawings(120)
    (root / "train.parquet").write_bytes(parquet_of(images, ["shoe", "dress"] * 60))
    source = open_source(f"{url}/train.parquet", ["shoe", "dress"], tmp_path / "cache")
    reader = open_reader(source.files[0], 28)
    assert np.array_equal(reader.read(30, 120).images, images[30:])
    options = SourceOptions()
    assert source_classes(f"{url}/train.parquet", options) == ("dress", "shoe")
    with pytest.raises(ValueError, match=r"over http.s. Parquet is read from the address of one"):
        open_source(url, ["shoe"], tmp_path / "cache")


def test_strokes_over_http_are_known_by_their_ending(tmp_path, web, quickdraw_sample):
    root, url = web
    lines = (quickdraw_sample / "official" / "simplified" / "bee.ndjson").read_bytes()
    (root / "bee.ndjson").write_bytes(lines)
    (file,) = open_source(url, ["bee"], tmp_path / "cache").files
    assert (file.format, file.rows) == ("simplified", lines.count(b"\n"))


def test_a_server_that_is_not_there_takes_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(RETRY_CONFIG, "max_retries", 0)
    with pytest.raises(RemoteError, match=r"^http://127.0.0.1:9/far.* cannot be read: ") as caught:
        open_source("http://127.0.0.1:9/far", ["bee"], tmp_path / "cache")
    assert "\n" not in str(caught.value)


def put_files(server, folder: str, files: dict[str, bytes]) -> str:
    import boto3
    from ceph import BUCKET

    client = boto3.client("s3", endpoint_url=server.endpoint)
    for name, content in files.items():
        client.put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=content)
    return f"s3://{BUCKET}/{folder}"


@pytest.mark.slow
def test_a_dataset_is_built_from_s3_into_s3(s3_server, tmp_path):
    images = {name: some_drawings(150, seed) for seed, name in enumerate(("bee", "sun"))}
    files = {f"numpy_bitmap/{name}.npy": google_npy(rows) for name, rows in images.items()}
    url = put_files(s3_server, "real", files)
    source = open_source(url, ["bee", "sun"], tmp_path / "cache")
    store = open_store(put_files(s3_server, "built", {}))
    spec = DatasetSpec(class_names=("bee", "sun"))
    manifest = build_dataset(spec, source, store, "far")
    assert verify_dataset(manifest, store) == []
    local = tmp_path / "local"
    for name, content in files.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    near = open_source(str(local), ["bee", "sun"], tmp_path / "cache")
    other = build_dataset(spec, near, open_store(str(tmp_path / "store")), "near")
    assert other.summary["content_digest"] == manifest.summary["content_digest"]


@pytest.mark.slow
def test_secrets_in_addresses_of_s3_are_neither_used_nor_told(
    s3_server, tmp_path, monkeypatch, capfd
):
    endpoint = s3_server.endpoint.replace("http://", "http://user:CANARY@")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path))
    place = put_files(s3_server, "told", {}).replace("s3://", "s3://user:CANARY@")
    store = ("--store", f"{place}/store")
    out = f"{place}/out"
    commands = (
        ("build", "--classes", "sun", "--max-per-class", "30"),
        ("export", "doodles", "--format", "idx", "--out", out),
        ("verify",),
        ("ls",),
    )
    for command in commands:
        for flag in ("--json", "--debug"):
            assert run_command_line([*command, *store, flag]) == 0
            said = "".join(capfd.readouterr())
            assert "CANARY" not in said
            assert command[0] != "export" or out.replace("user:CANARY@", "") in said


@pytest.mark.slow
def test_strokes_and_parquet_on_s3_are_known_by_their_endings(
    s3_server, tmp_path, quickdraw_sample
):
    lines = (quickdraw_sample / "official" / "simplified" / "bee.ndjson").read_bytes()
    url = put_files(s3_server, "strokes", {"bee.ndjson": lines})
    source = open_source(url, None, tmp_path / "cache", SourceOptions(columns=["key_id"]))
    assert source.rows_by_class() == {"bee": lines.count(b"\n")}
    key_ids = open_reader(source.files[0], 28).read(0, 3).key_id
    assert key_ids[0] == int(json.loads(lines.splitlines()[0])["key_id"])
    images = some_drawings(60)
    tables = {"data/train-0.parquet": parquet_of(images, ["shoe", "dress"] * 30)}
    source = open_source(put_files(s3_server, "tables", tables), ["shoe"], tmp_path / "cache")
    assert np.array_equal(open_reader(source.files[0], 28).read(0, 60).images, images)
    with pytest.raises(ValueError, match=r"has no \.npy, .* files and is no TFDS dataset"):
        open_source(put_files(s3_server, "nothing", {}), None, tmp_path / "cache")


@pytest.mark.slow
def test_pictures_are_not_read_from_a_server_and_say_so(s3_server, tmp_path):
    files = {f"train/bee/{i}.png": b"\x89PNG" for i in range(3)}
    with pytest.raises(ValueError, match=r"pictures, which are read from a local copy"):
        open_source(put_files(s3_server, "pictures", files), None, tmp_path / "cache")


@pytest.mark.slow
def test_what_tfds_prepared_is_not_read_from_a_server_and_says_so(s3_server, tmp_path):
    names = ("dataset_info.json", "features.json", "label.labels.txt", "m-train.tfrecord-0-of-1")
    url = put_files(s3_server, "prepared", {f"mine/1.0.0/{name}": b"{}" for name in names})
    for place in (f"{url}/mine/1.0.0", url):
        with pytest.raises(ValueError, match=r"mine/1\.0\.0: .* is read from a local copy of it"):
            source_classes(place, SourceOptions())


@pytest.mark.slow
def test_packed_strokes_and_tables_on_s3_are_those_of_plain_lines(s3_server, tmp_path):
    rows = [{"word": "bee", "drawing": drawing} for drawing in some_strokes(300)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    table = io.StringIO()
    csv.writer(table).writerows(
        [["drawing", "word"], *([row["drawing"], row["word"]] for row in rows[::-1])]
    )
    offsets, sink = np.zeros((300, 9, 3), np.int16), io.BytesIO()
    offsets[:, 1:5, :2] = np.random.default_rng(0).integers(1, 60, (300, 4, 2))
    np.savez_compressed(sink, train=offsets[:200], test=offsets[200:])
    files = {"bee.ndjson.gz": gzip.compress(lines), "sun.npz": sink.getvalue()}
    files["mine.csv"] = table.getvalue().encode()
    url = put_files(s3_server, "packed", files)
    plain = open_source(put_files(s3_server, "plain", {"bee.ndjson": lines}), None, tmp_path)
    expected = open_reader(plain.files[0], 28).read(0, 300).images
    (packed,) = open_source(url, ["bee"], tmp_path).files
    assert np.array_equal(open_reader(packed, 28).read(0, 300).images, expected)
    mixed = open_source(f"{url}/mine.csv", None, tmp_path)
    assert mixed.class_names == ("bee",)
    images = open_reader(mixed.files[0], 28).read(0, 300).images
    assert np.array_equal(images, expected[::-1])
    assert open_source(url, ["sun"], tmp_path).split_rows() == {"train": 200, "test": 100}
