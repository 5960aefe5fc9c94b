"""Tars of samples, written with Pillow and Python's tarfile."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


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
