"""`sketchmill build` on addresses: signed ones of a web server, and file URLs."""

import functools
import http.server
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import Builder, fill_with, named, parquet_of, some_drawings

from pipelines.sources.doodles.make import google_npy

IMAGES = some_drawings(30)
NPY = google_npy(IMAGES)


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves one folder by ranges, to those alone who ask with the signature, and by GET alone."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.send_error(403)

    def do_GET(self):
        if not self.path.endswith("?X-Amz-Signature=secret%2F1"):
            self.send_error(403)
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        low, high = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[low : high + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {low}-{low + len(part) - 1}/{len(content)}")
        self.send_header("Last-Modified", self.date_time_string(0))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def signed(tmp_path):
    """The folder of a web server and what makes the address of a file in it."""
    root = tmp_path / "web"
    root.mkdir()
    handler = functools.partial(Ranges, directory=str(root))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{running.server_address[1]}"
    yield root, lambda name: f"{url}/{name}?X-Amz-Signature=secret%2F1"
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize(
    ("file", "workers"),
    [
        ("bee.npy", "1"),
        ("a%20b.parquet", "1"),
        pytest.param("a%20b.parquet", "2", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_signed_address_is_read_and_its_signature_is_nowhere(
    build, tmp_path, signed, file, workers
):
    root, address = signed
    table = parquet_of(IMAGES, ["bee"] * 30)
    fill_with(root, {"a b.parquet": table, "bee.npy": NPY, "torn.parquet": b"PAR1"})
    expected = named(IMAGES, ["bee"] * 30)
    assert build.drawings(address(file), "--workers", workers) == expected
    answer = build.refused(address("torn.parquet"), "--classes", "bee")
    assert "secret" not in answer
    assert "secret" not in build.refused(address("bee.npy"), "--classes", "sun")
    written = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not [path for path in written if b"secret" in path.read_bytes()]
    assert not [path for path in written if "secret" in str(path)]


@pytest.mark.slow
def test_a_file_url_is_the_path_that_it_means(build, tmp_path):
    folder = tmp_path / "my drawings"
    folder.mkdir()
    np.save(folder / "bee.npy", some_drawings(20).reshape(20, 784))
    path = str(folder).replace(" ", "%20")
    expected = build.drawings(folder)
    assert build.drawings(f"file://{path}") == expected
    assert build.drawings(f"file://localhost{path}/") == expected
    assert "expected file:///ABSOLUTE/PATH" in build.refused(f"file://server{path}")
