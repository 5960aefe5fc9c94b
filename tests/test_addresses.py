"""The addresses of specs of every kind are what they were: what a store has is found again.

A new option leaves a spec at its default as it was. A version that is raised on purpose moves
addresses: write them anew with `python tests/test_addresses.py` and say so in the commit.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.stages.build import BuildParams, dataset_work
from model.audit.filters import Filters
from model.audit.quota import QuotaSpec, Sources
from model.audit.run import AuditSpec, audit_inputs
from model.evaluation.classifier import classifier_digest, classifier_spec
from model.report.page import report_digest, report_inputs, report_spec
from model.sampling.spec import SampleSpec, samples_digest
from model.training.presets import preset
from model.training.spec import fit_to_dataset, run_digest
from pipelines.dataset.build import dataset_digest
from pipelines.dataset.spec import DatasetSpec
from pipelines.export.job import export_inputs
from pipelines.export.spec import ExportSpec
from pipelines.sources.base import Source, SourceFile
from pipelines.store.manifest import FileEntry, Kind, Manifest, artifact_digest

GOLDEN = Path(__file__).parent / "golden" / "addresses.json"
NAMES = ("bee", "sun")
DATASETS: dict[str, dict[str, Any]] = {
    "default": {},
    "slice": {"tfds_slice": "train[:1000]"},
    "selected": {"max_per_class": 50, "fraction": 0.5, "seed": 3, "min_ink": 5, "max_ink": 300},
    "countries": {"countries": ("DE", "US"), "recognized_only": True, "with_metadata": True},
    "cleaned": {"blank": "keep", "duplicates": "keep", "near_duplicates": 4},
    "records": {"formats": ("tfrecord", "parquet"), "tfrecord_images": "raw"},
    "linked": {"layout": "linked", "compression_level": 10, "rows_per_shard": 500},
    "large": {"image_size": 64, "splits": (("train", 0.8), ("test", 0.2)), "on_bad_file": "skip"},
}


def source_file(class_name: str | None, **fields: Any) -> SourceFile:
    described = {"url": "bee.npy", "format": "npy", "rows": 100, "bytes": 78_480}
    return SourceFile(
        **described | {"class_name": class_name, "digest": f"sha256:{'1' * 64}"} | fields
    )


def sources() -> dict[str, Source]:
    plain = (source_file("bee"), source_file("sun", digest=f"sha256:{'2' * 64}"))
    strokes = source_file("bee", format="simplified", digest="etag:7-abc")
    joined = (source_file("bee", metadata=strokes), source_file("sun"))
    mixed = (source_file(None, format="parquet", layout={"labels": "class_name"}),)
    return {
        "bitmaps": Source(name="bitmaps", class_names=NAMES, files=plain),
        "doodles": Source(name="doodles", class_names=NAMES, files=plain, is_synthetic=True),
        "joined": Source(name="joined", class_names=NAMES, files=joined),
        "tables": Source(name="tables", class_names=NAMES, files=mixed),
        "strokes": Source(name="strokes", class_names=("bee",), files=(strokes,), image_size=64),
    }


def artifact(kind: Kind, digit: str) -> Manifest:
    return Manifest(
        kind=kind,
        name="small",
        digest=digit * 64,
        spec={},
        files=(
            FileEntry(
                path="data/train-00000.parquet", bytes=1, sha256="0" * 64, rows=9_000, split="train"
            ),
        ),
        summary={"class_names": list(NAMES), "image_shape": [28, 28]},
    )


def dataset_addresses() -> Iterator[tuple[str, str]]:
    for name, fields in DATASETS.items():
        spec = DatasetSpec(class_names=NAMES, **fields)
        yield f"datasets/{name}", dataset_digest(spec, sources()["bitmaps"])
    spec = DatasetSpec(class_names=NAMES)
    for name, source in sources().items():
        yield f"datasets/of-{name}", dataset_digest(spec, source)
    asked = BuildParams(source="quickdraw", classes=("bee", "tfds:309"), max_per_class=20_000)
    yield "datasets/as-asked", dataset_digest(*dataset_work(asked, plan_only=True))


def model_addresses() -> Iterator[tuple[str, str]]:
    dataset = artifact("datasets", "d")
    for name in ("tiny", "small", "seed", "large"):
        spec = fit_to_dataset(preset(name), dataset)
        yield f"models/{name}", run_digest(spec, dataset)
    yield "models/judge", classifier_digest(classifier_spec(dataset), dataset)


def sample_addresses() -> Iterator[tuple[str, str]]:
    model, dataset = artifact("models", "a"), artifact("datasets", "d")
    guided = {"per_class": (3, 5), "seed": 1, "temperature": 0.9, "guidance": 2.5}
    for name, fields in {"plain": {"per_class": 8}, "guided": guided}.items():
        spec = SampleSpec(class_names=NAMES, **fields)
        yield f"samples/{name}", samples_digest(spec, model)
    quota = QuotaSpec(counts={"bee": 3, "sun": 5}, filters=Filters())
    inputs = Sources(model=model, dataset=dataset).inputs()
    yield "samples/quota", artifact_digest("samples", quota.to_json(), inputs)


def other_addresses() -> Iterator[tuple[str, str]]:
    dataset, model, samples = (
        artifact("datasets", "d"),
        artifact("models", "a"),
        artifact("samples", "b"),
    )
    report = report_inputs(dataset, model, samples)
    yield "reports/page", report_digest(report_spec(per_class=8), report)
    audit = audit_inputs(samples, dataset, None)
    yield "reports/audit", artifact_digest("reports", AuditSpec().to_json(), audit)
    kinds = {"all": ("hf", "tfds", "webdataset", "numpy_bitmap", "idx", "png"), "hf": ("hf",)}
    for name, formats in kinds.items():
        # Without the version of the formats' bytes, which moves with each of them.
        spec = ExportSpec(formats=formats, format_version=0)
        digest = artifact_digest("exports", spec.to_json(), export_inputs(samples))
        yield f"exports/{name}", digest


def addresses() -> dict[str, str]:
    return dict([*dataset_addresses(), *model_addresses(), *sample_addresses(), *other_addresses()])


def test_addresses_are_what_they_were():
    assert addresses() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("on_bad_row", "skip"),
        ("license", "MIT"),
        ("attribution", "By Ann."),
        ("max_points", 500),
        ("max_row_groups", 50),
    ],
)
def test_what_was_added_later_moves_an_address_only_if_it_is_said(field, value):
    plain = DatasetSpec(class_names=NAMES)
    asked = dataclasses.replace(plain, **{field: value})
    assert field not in plain.to_json()
    assert asked.to_json() == plain.to_json() | {field: value}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(addresses(), indent=1, sort_keys=True) + "\n")
