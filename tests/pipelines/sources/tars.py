"""Tars of samples, written with Pillow and Python's tarfile, and exports of what they hold."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from flows.cli import run_command_line

NAMES = ["007", "NA", "a&b%2F", 'Salz, "\u00d6l"', "true", "3"]
SPLITS = ("--splits", "train=0.7,test=0.3")


def picture(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """Return an encoded picture."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, kind, **options)
    return sink.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> Path:
    """Write members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            add_member(tar, name, content)
    return path


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add one file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def samples_of(
    images: np.ndarray, classes: Sequence[Any], *, suffix: str = "cls", prefix: str = ""
) -> Iterator[tuple[str, bytes]]:
    """Yield picture and class of each drawing: text as it is, all else as JSON."""
    for i, (image, one) in enumerate(zip(images, classes, strict=True)):
        yield f"{prefix}{i:06d}.png", picture(image)
        text = one if isinstance(one, str) else json.dumps(one)
        yield f"{prefix}{i:06d}.{suffix}", text.encode()


def export(build: Any, root: Path, images: np.ndarray, kind: str, *flags: str):
    """Return the folder of an export of these drawings, and the manifest of their dataset."""
    names = [NAMES[i % len(NAMES)] for i in range(len(images))]
    said = [
        {
            "word": name,
            "key_id": str(10**15 + i),
            "countrycode": "DE",
            "recognized": i % 2 == 0,
            "timestamp": "2017-03-06 00:28:58.85688 UTC",
        }
        for i, name in enumerate(names)
    ]
    tar = write_tar(root / "first.tar", list(samples_of(images, said, suffix="json")))
    # Another order than that of the alphabet, as a line of CSV.
    listed = ",".join('"' + name.replace('"', '""') + '"' for name in NAMES)
    arguments = ("--classes", listed, "--name", "odd", *SPLITS, *flags)
    code, answer = build(tar, *arguments)
    assert code == 0, answer
    out = root / "out"
    call = ["export", "odd", "--format", kind, "--out", str(out), "--store", str(build.store)]
    assert run_command_line([*call, "--json", "--quiet"]) == 0
    build.capsys.readouterr()
    return out, build.manifest(answer)


def rows(build: Any, manifest) -> list[tuple]:
    """Return split, class, pixels and metadata of every drawing of a dataset, sorted."""
    found = []
    for entry in manifest.files:
        if entry.path.endswith(".parquet"):
            table = pq.read_table(build.store / manifest.prefix / entry.path)
            for row in table.to_pylist():
                name = manifest.summary["class_names"][row.pop("label")]
                picture = row.pop("image")["bytes"]
                row.pop("tfds_id", None)
                found.append(
                    (entry.split, name, picture, json.dumps(row, sort_keys=True, default=str))
                )
    return sorted(found)
