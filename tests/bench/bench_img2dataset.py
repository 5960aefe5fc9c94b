"""Drawings on a web server to labelled Parquet: sketchmill beside img2dataset, on loopback.

Run: make bench NAME=img2dataset, with IMG2DATASET naming the command of an environment of its own
(`pip install img2dataset`), since it needs other versions than this project.

The server has the same 20,000 drawings twice: a PNG file each, which is what img2dataset fetches,
and a bitmap file a class, which is what Quick, Draw! publishes and `sketchmill build` reads.
"""

import asyncio
import contextlib
import csv
import hashlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np
from bench_pipeline import original
from figures import print_figure
from PIL import Image

from pipelines.catalogue import SEED_CLASSES

PER_CLASS = 1000
OPTIONS = [
    *("--input_format=csv", "--url_col=url", "--caption_col=caption", "--output_format=parquet"),
    *("--processes_count=2", "--thread_count=16", "--number_sample_per_shard=5000"),
    *("--resize_mode=no", "--encode_format=png", "--encode_quality=9"),
]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        rows = write_files(original(Path("original")), Path("served"))
        port = serve(Path("served"))
        write_urls(Path("urls.csv"), rows, port)
        report(len(rows), port)


def report(num_drawings: int, port: int) -> None:
    """Print seconds, bytes and the share of equal files of two runs, ours beside the peer's."""
    theirs = [["--url_list=urls.csv", f"--output_folder=peer-{run}", *OPTIONS] for run in (0, 1)]
    common = ["--source", f"http://127.0.0.1:{port}/", "--classes", ",".join(SEED_CLASSES)]
    common += ["--workers", "2", "--quiet"]
    ours = [["build", *common, "--store", f"ours-{run}"] for run in (0, 1)]
    ours_sec = [usage([f"{Path(sys.executable).parent}/sketchmill", *args]) for args in ours]
    peer_sec = [usage([os.environ["IMG2DATASET"], *args]) for args in theirs]
    for index, name in enumerate(("wall", "cpu")):
        mine, other = (min(sec[index] for sec in runs) for runs in (ours_sec, peer_sec))
        print_figure(
            f"fetch_{name}_vs_img2dataset", mine, f"s for {num_drawings} drawings",
            peer="img2dataset", peer_value=other, ratio=other / mine,
        )  # fmt: skip
    files = [[shards(f"{who}-{run}") for run in (0, 1)] for who in ("ours", "peer")]
    sizes = [sum(map(len, first)) / num_drawings for first, _ in files]
    print_figure(
        "fetch_bytes_vs_img2dataset", sizes[0], "bytes/drawing", peer="img2dataset",
        peer_value=sizes[1], ratio=sizes[1] / sizes[0],
    )  # fmt: skip
    equal = [
        np.mean([digest(a) == digest(b) for a, b in zip(first, second, strict=True)])
        for first, second in files
    ]
    print_figure(
        "fetch_equal_shards_of_two_runs", equal[0], "of all", peer="img2dataset",
        peer_value=equal[1],
    )  # fmt: skip


def usage(command: list[str]) -> tuple[float, float]:
    """Run a command; return its wall seconds and those of its processes on CPUs."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"NO_PROXY": "*"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_sec = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu_sec


def shards(directory: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(directory).rglob("*.parquet"))]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_files(source: Path, target: Path) -> list[tuple[str, str]]:
    """Write a bitmap file a class and a PNG a drawing; return (path, class) of the PNGs."""
    rows = []
    for name in SEED_CLASSES:
        drawings = np.load(source / f"{name}.npy")[:PER_CLASS]
        (target / name).mkdir(parents=True)
        np.save(target / f"{name}.npy", drawings)
        for index, pixels in enumerate(drawings):
            Image.fromarray(pixels.reshape(28, 28)).save(target / name / f"{index}.png")
            rows.append((f"{name}/{index}.png", name))
    return rows


def write_urls(path: Path, rows: list[tuple[str, str]], port: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("url", "caption"))
        for where, name in rows:
            writer.writerow((f"http://127.0.0.1:{port}/{urllib.parse.quote(where)}", name))


def serve(root: Path) -> int:
    """Serve files below `root` on loopback from a thread of this process; return the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(response(root, await reader.readuntil(b"\r\n\r\n")))
        writer.close()

    ready: list[int] = []
    started = threading.Event()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ready.append(server.sockets[0].getsockname()[1])
        started.set()
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    started.wait()
    return ready[0]


def response(root: Path, head: bytes) -> bytes:
    """Return the answer to a GET or HEAD of a file below `root`, whole or one range of it."""
    method, target = head.split(b" ")[:2]
    file = root / urllib.parse.unquote(target.decode()).lstrip("/")
    status, data, extent = "404 Not Found", b"", ""
    if file.is_file():
        status, data = "200 OK", file.read_bytes()
    if wanted := re.search(rb"range: bytes=(\d+)-(\d+)", head.lower()):
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        extent = f"Content-Range: bytes {first}-{last}/{len(data)}\r\n"
        status, data = "206 Partial Content", data[first : last + 1]
    fields = f'ETag: "1"\r\nLast-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\n{extent}'
    lines = f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(data)}\r\n\r\n"
    return lines.encode() + (b"" if method == b"HEAD" else data)


if __name__ == "__main__":
    main()
