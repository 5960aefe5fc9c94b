"""Downloads: continued, tried again in time, held against the catalogue, done once."""

import http.server
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipelines.catalogue import ClassEntry, class_entry
from pipelines.sources.base import BadFileError
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.download import download_classes
from pipelines.sources.registry import open_source
from pipelines.store.local_files import sha256_of


def some_drawings(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    return images


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Serves one file by ranges; refuses at first, then breaks off in the middle."""

    content = b""
    breaks = 2
    refusals: list[tuple[int, str]] = []  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        if self.refusals:
            code, seconds = self.refusals.pop(0)
            self.send_response(code)
            self.send_header("Retry-After", seconds)
            self.end_headers()
            return
        start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        type(self).asked.append(self.headers["Range"])
        rest = self.content[start:]
        self.send_response(206)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if type(self).breaks:
            type(self).breaks -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    RangeServer.breaks, RangeServer.asked, RangeServer.refusals = 2, [], []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeServer)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}/numpy_bitmap"
    running.shutdown()
    running.server_close()


def entry_for(content: bytes, tmp_path: Path):
    path = tmp_path / "original"
    path.write_bytes(content)
    digest = sha256_of(path)

    def entry_of(name: str) -> ClassEntry:
        real = class_entry(name)
        return ClassEntry(
            name=name, tfds_id=real.tfds_id, bytes=len(content), sha256=digest, num_drawings=0
        )

    return entry_of


def test_a_broken_download_is_continued_where_it_stopped(tmp_path, server):
    RangeServer.content = google_npy(some_drawings(50))
    seen = []
    download_classes(
        ["sea turtle"],
        tmp_path / "cache",
        base_url=server,
        entry_of=entry_for(RangeServer.content, tmp_path),
        progress=lambda stage, done, total, note: seen.append((done, total)),
        wait=lambda _: None,
    )
    assert (tmp_path / "cache" / "sea turtle.npy").read_bytes() == RangeServer.content
    half, total = len(RangeServer.content) // 2, len(RangeServer.content)
    assert RangeServer.asked[:2] == ["bytes=0-", f"bytes={half}-"]
    assert len(RangeServer.asked) == 3
    assert seen[-1] == (total, total)


def test_a_download_that_is_not_googles_file_is_thrown_away(tmp_path):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "bee.npy").write_bytes(google_npy(some_drawings(50)))
    with pytest.raises(BadFileError, match="it is not Google's file"):
        download_classes(
            ["bee"],
            tmp_path / "cache",
            base_url=str(bucket),
            entry_of=entry_for(google_npy(some_drawings(50, seed=1)), tmp_path),
        )
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_file_is_not_asked_for_again(tmp_path):
    with pytest.raises(ConnectionError, match="SKETCHMILL_QUICKDRAW_URL"):
        download_classes(["bee"], tmp_path / "cache", base_url=str(tmp_path / "nowhere"))


def test_quickdraw_checks_what_stands_in_for_googles_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("SKETCHMILL_QUICKDRAW_URL", str(tmp_path))
    (tmp_path / "bee.npy").write_bytes(google_npy(some_drawings(5)))
    with pytest.raises(BadFileError, match=f"expected {class_entry('bee').bytes}"):
        open_source("quickdraw", ["bee"], tmp_path / "cache")


def fetch(tmp_path: Path, server: str, waits: list[float]) -> Path:
    entry_of = entry_for(RangeServer.content, tmp_path)
    cache = tmp_path / "cache"
    download_classes(["bee"], cache, base_url=server, entry_of=entry_of, wait=waits.append)
    return cache / "bee.npy"


def test_a_busy_server_is_asked_again_after_the_time_it_names(tmp_path, server):
    RangeServer.content, RangeServer.breaks = google_npy(some_drawings(50)), 0
    RangeServer.refusals = [(429, "7"), (503, ""), (500, "soon")]
    waits: list[float] = []
    assert fetch(tmp_path, server, waits).read_bytes() == RangeServer.content
    assert waits[0] == 7
    assert 1 <= waits[1] <= 2 <= waits[2] <= 4


def test_a_server_that_stays_busy_is_given_up_in_one_line(tmp_path, server):
    RangeServer.content = google_npy(some_drawings(50))
    RangeServer.refusals = [(503, "")] * 6
    waits: list[float] = []
    with pytest.raises(ConnectionError, match=r"HTTP Error 503.*run again to continue") as caught:
        fetch(tmp_path, server, waits)
    assert len(waits) == 5
    assert "\n" not in str(caught.value)


def test_what_came_before_a_failure_is_kept_for_the_next_run(tmp_path, server):
    RangeServer.content, RangeServer.breaks = google_npy(some_drawings(50)), 1

    def lose_the_server(_: float) -> None:
        RangeServer.refusals = [(503, "")] * 9

    with pytest.raises(ConnectionError, match="of 39,280 bytes are there"):
        download_classes(
            ["bee"],
            tmp_path / "cache",
            base_url=server,
            entry_of=entry_for(RangeServer.content, tmp_path),
            wait=lose_the_server,
        )
    assert (tmp_path / "cache" / "bee.npy.part").stat().st_size == 39_280 // 2
    RangeServer.refusals, RangeServer.asked = [], []
    assert fetch(tmp_path, server, []).read_bytes() == RangeServer.content
    assert RangeServer.asked == [f"bytes={39_280 // 2}-"]


def test_a_file_damaged_in_the_cache_is_fetched_again(tmp_path, server):
    RangeServer.content, RangeServer.breaks = google_npy(some_drawings(50)), 0
    path = fetch(tmp_path, server, [])
    damaged = bytearray(RangeServer.content)
    damaged[5_000] ^= 1
    path.write_bytes(damaged)
    assert fetch(tmp_path, server, []).read_bytes() == RangeServer.content


@pytest.fixture
def fast_switches():
    """Let threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def fetch_at_once(count: int, cache: Path, address: str, entry_of) -> None:
    """Let so many threads ask for the bee; raise what one of them raised."""

    def work(_: int) -> None:
        download_classes(["bee"], cache, base_url=address, entry_of=entry_of, wait=[].append)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
    assert [path.name for path in cache.glob("bee.npy*")] == ["bee.npy"]


def test_two_at_once_fetch_a_file_once(tmp_path, server):
    RangeServer.content, RangeServer.breaks = google_npy(some_drawings(2_000)), 3
    entry_of = entry_for(RangeServer.content, tmp_path)
    fetch_at_once(4, tmp_path / "cache", server, entry_of)
    assert (tmp_path / "cache" / "bee.npy").read_bytes() == RangeServer.content
    assert len(RangeServer.asked) == 4


@pytest.mark.parametrize("is_damaged", [False, True])
def test_many_at_once_see_a_whole_file_wherever_they_are_interrupted(
    tmp_path, fast_switches, is_damaged
):
    content = google_npy(some_drawings(20))
    entry_of = entry_for(content, tmp_path)
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "bee.npy").write_bytes(content)
    for turn in range(50):
        cache = tmp_path / f"cache-{turn}"
        if is_damaged:
            cache.mkdir()
            (cache / "bee.npy").write_bytes(content[:-1] + b"x")
        fetch_at_once(6, cache, str(tmp_path / "bucket"), entry_of)
        assert (cache / "bee.npy").read_bytes() == content
