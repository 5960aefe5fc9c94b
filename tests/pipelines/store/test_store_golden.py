"""Manifests of every schema version so far: later versions must read them.

A new schema version adds a file here and changes none: write it with
`python tests/pipelines/test_store_golden.py`.
"""

import hashlib
from pathlib import Path

import pytest

from pipelines.store.manifest import (
    SCHEMA_VERSION,
    FileEntry,
    InputRef,
    Manifest,
    artifact_digest,
    manifest_from_json,
    manifest_to_json,
)

FOLDER = Path(__file__).parents[2] / "golden" / "manifests"


def golden_manifest() -> Manifest:
    """Return a manifest with every field in use."""
    source = InputRef(role="source", kind="source", name="quickdraw", digest="5" * 64)
    content = b"drawings\n"
    file = FileEntry(
        path="data/train-00000.parquet",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        rows=3,
        split="train",
    )
    spec = {"classes": ["bee", "The Eiffel Tower"], "fraction": 0.5, "seed": 7, "max": None}
    return Manifest(
        kind="datasets",
        name="golden",
        digest=artifact_digest("datasets", spec, (source,)),
        spec=spec,
        inputs=(source,),
        files=(file,),
        summary={"class_names": ["bee", "The Eiffel Tower"], "dropped": {"empty": 1}},
        versions={"sketchmill": "0.1.0", "pyarrow": "25.0.1"},
    )


def test_this_version_writes_the_golden_bytes():
    written = (FOLDER / f"version-{SCHEMA_VERSION}.json").read_bytes()
    assert manifest_to_json(golden_manifest()) == written


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_manifest_of_every_version_is_read(version):
    manifest = manifest_from_json((FOLDER / f"version-{version}.json").read_bytes())
    golden = golden_manifest()
    assert (manifest.kind, manifest.name, manifest.spec) == ("datasets", "golden", golden.spec)
    assert manifest.digest == artifact_digest("datasets", manifest.spec, manifest.inputs)
    assert manifest.files == golden.files
    assert manifest.inputs == golden.inputs
    assert manifest_to_json(manifest) == (FOLDER / f"version-{version}.json").read_bytes()


def test_flip_of_any_bit_of_a_manifest_is_found():
    content = manifest_to_json(golden_manifest())
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="manifest"):
            manifest_from_json(bytes(flipped))


def test_manifest_of_a_later_version_says_to_update():
    later = manifest_to_json(golden_manifest()).replace(
        b'"schema_version": 2', b'"schema_version": 3'
    )
    with pytest.raises(ValueError, match="update sketchmill"):
        manifest_from_json(later)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema_version": 1}', b"\xff"])
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(ValueError, match="manifest"):
        manifest_from_json(content)


if __name__ == "__main__":
    (FOLDER / f"version-{SCHEMA_VERSION}.json").write_bytes(manifest_to_json(golden_manifest()))
