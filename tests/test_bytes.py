"""The bytes of artifacts of every kind are what they were, so that a store made before stays good.

All files are compared where bits are the same on every processor: of a dataset and of an export in
each format, the versions of libraries masked. What was computed in floating point, which is a
model, samples, reports and an audit, is compared by its address, the names of its files and their
fields. Where torch is absent (make check-data), the dataset and the export alone are compared. Where
bytes change on purpose, write them anew with `python tests/test_bytes.py` and say so in the commit.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import run_command_line
from pipelines.drawings.parquet import open_shard
from pipelines.sources.doodles.make import google_npy
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import KINDS, Manifest

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "bytes.json"
SMALL = ("num_filters=4", "num_hierarchies=1", "num_resnet=1", "budget_nimg=16", "batch_size=8")
COMMANDS = (
    "build --source {folder}/mine --classes all --format parquet,tfrecord --name small"
    " --splits train=0.6,validation=0.2,test=0.2",
    "train --dataset small --name net --set " + " --set ".join(SMALL),
    "sample --model net --per-class 2 --name drawn --arithmetic torch",
    "report --samples drawn --audit",
    "export datasets/small --format hf,tfds,webdataset,numpy_bitmap,idx,png",
)
# Where every bit is the same on every processor.
EXACT = ("datasets", "exports")
# What a Parquet file says of the library that wrote it, and a card the digest of such a file.
VERSIONS = re.compile(rb"parquet-cpp-arrow version [0-9.]+|\"sha256\": \"[0-9a-f]{64}\"")


def write_source(folder: Path) -> None:
    """Write two classes of eight drawings of noise."""
    folder.mkdir()
    for seed, name in enumerate(("bee", "sun")):
        images = np.random.default_rng(seed).integers(0, 256, (8, 28, 28), np.uint8)
        (folder / f"{name}.npy").write_bytes(google_npy(images * (images > 200)))


def artifacts(folder: Path, commands: Sequence[str] = COMMANDS) -> dict[str, dict[str, Any]]:
    """Make artifacts with the user's commands; describe each by its address."""
    write_source(folder / "mine")
    url = str(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKETCHMILL_CACHE", str(folder / "cache"))
        for command in commands:
            given = command.format(folder=folder).split()
            assert run_command_line([*given, "--store", url, "--json", "--quiet"]) == 0, command
    store = open_store(url)
    made = [manifest for kind in KINDS for manifest in store.manifests(kind)]
    assert all({"python", "sketchmill"} <= manifest.versions.keys() for manifest in made)
    return {manifest.prefix: described(store, manifest) for manifest in made}


def described(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Return the fields of a manifest, and each file by its SHA-256 or its own fields."""

    def describe(path: str) -> str | list[str]:
        is_exact = manifest.kind in EXACT and path != "provenance.json"  # of versions
        return (digest_of if is_exact else fields_of)(path, store.read(manifest, path))

    return {
        "fields": sorted(json.loads(store.get(f"{manifest.prefix}/manifest.json"))),
        "summary": sorted(manifest.summary),
        "files": {entry.path: describe(entry.path) for entry in manifest.files},
    }


def digest_of(path: str, content: bytes) -> str:
    """Return the SHA-256 of a file that has any versions masked."""
    masked = VERSIONS.sub(b"", content) if path.endswith((".json", ".parquet")) else content
    return hashlib.sha256(masked).hexdigest()


def fields_of(path: str, content: bytes) -> list[str]:
    """Return the names in a file of numbers that were computed."""
    if path.endswith(".parquet"):
        return [f"{field.name}: {field.type}" for field in open_shard(content).schema_arrow]
    return sorted(json.loads(content)) if path.endswith(".json") else []


def test_artifacts_of_every_kind_are_what_they_were(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    assert {prefix.partition("/")[0] for prefix in golden} == set(KINDS)
    commands = COMMANDS
    if find_spec("torch") is None:
        golden = {path: made for path, made in golden.items() if path.partition("/")[0] in EXACT}
        commands = [each for each in COMMANDS if each.startswith(("build ", "export "))]
    found = artifacts(tmp_path, commands)
    assert found.keys() == golden.keys()
    for prefix in golden:
        assert found[prefix] == golden[prefix], prefix


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        text = json.dumps(artifacts(Path(name)), indent=1, sort_keys=True)
    GOLDEN.write_text(text + "\n")
