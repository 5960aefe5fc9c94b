"""What `sketchmill build` makes of a source: run in this process, read back drawing by drawing."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import run_command_line
from pipelines.drawings.parquet import IMAGE_TYPE, read_images
from pipelines.drawings.stored_png import encode_pngs
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest


class Builder:
    """Runs commands on a store of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store, self.capsys = root / "store", capsys

    def __call__(self, source: Path | str, *arguments: str, verb: str = "build"):
        """Return (exit code, its JSON or its error); without --classes of all classes."""
        store = ["--store", str(self.store), "--json", "--quiet"]
        classes = [] if "--classes" in arguments else ["--classes", "all"]
        code = run_command_line([verb, "--source", str(source), *classes, *arguments, *store])
        said = self.capsys.readouterr()
        return code, said.err if code else json.loads(said.out.splitlines()[-1])

    def refused(self, source: Path | str, *arguments: str) -> str:
        """Return the one line that a command ends with that is refused before anything is read."""
        code, answer = self(source, "--dry-run", *arguments)
        assert (code, str(answer).count("\n")) == (2, 1), answer
        return answer

    def drawings(self, source: Path | str, *arguments: str) -> list[tuple[str, bytes]]:
        """Return class and pixels of every drawing of the dataset that is built, sorted."""
        code, answer = self(source, *arguments)
        assert code == 0, answer
        manifest, found = self.manifest(answer), []
        for entry in manifest.files:
            if entry.path.endswith(".parquet"):
                table = pq.read_table(self.store / manifest.prefix / entry.path)
                images = read_images(table["image"])
                found += zip(table["label"].to_pylist(), images, strict=True)
        return sorted((manifest.summary["class_names"][n], image.tobytes()) for n, image in found)

    def manifest(self, result: dict) -> Manifest:
        """Return the manifest of what a command has built."""
        return open_store(str(self.store)).resolve("datasets", result["dataset"])


def named(images: np.ndarray, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return class and pixels of these drawings, sorted."""
    return sorted((name, image.tobytes()) for name, image in zip(names, images, strict=True))


def some_drawings(count: int, seed: int = 0) -> np.ndarray:
    """Return drawings (n, 28, 28) of noise, each another one, with ink of full strength."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    images[:, 0, 0] = 255
    return images


def fill_with(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def parquet_of(images: np.ndarray, names: list[str]) -> bytes:
    pictures = [{"bytes": png.tobytes(), "path": None} for png in encode_pngs(images)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": pa.array(pictures, IMAGE_TYPE), "label": names}), sink)
    return sink.getvalue().to_pybytes()
