"""An export of this program with odd names and metadata."""

import json
from pathlib import Path

import numpy as np
from built import Builder
from webdatasets import samples_of, write_tar

from flows.cli import run_command_line

NAMES = ["007", "NA", "a&b%2F", 'Salz, "\u00d6l"', "true", "3"]
SPLITS = ("--splits", "train=0.7,test=0.3")


def export(build: Builder, root: Path, images: np.ndarray, kind: str, *flags: str):
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


def rows(build: Builder, manifest) -> list[tuple]:
    """Return split, class, pixels and metadata of every drawing of a dataset, sorted."""
    import pyarrow.parquet as pq

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
