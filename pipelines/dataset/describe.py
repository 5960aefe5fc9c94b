"""Describe a dataset: manifest summary, dataset card, Croissant and TFDS metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipelines.catalogue import is_official, tfds_id
from pipelines.dataset.bad_rows import bad_row_entry
from pipelines.dataset.plan import BuildPlan, Tally
from pipelines.dataset.shards import ShardRecord, dataset_schema
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.tfds_slice import slice_note
from pipelines.drawings.credit import DOODLES, GOOGLES, QUICKDRAW, Credit, both, credit_of
from pipelines.drawings.croissant import CONTEXT, file_object, file_set, from_set, record_set
from pipelines.drawings.croissant import field as croissant_field
from pipelines.drawings.hashing import add_sums
from pipelines.drawings.huggingface import card_yaml
from pipelines.drawings.tfds_files import tfds_directory, tfds_files
from pipelines.drawings.tfrecord import TFRECORD_DIR
from pipelines.sources.base import Source, SourceFile
from pipelines.sources.download import BASE_URL
from pipelines.store.artifacts import Store
from pipelines.store.manifest import FileEntry, artifact_entries, digest_of

CARD_NAME = "README.md"
CROISSANT_NAME = "croissant.json"

_TYPES = {"int16": "sc:Integer", "int64": "sc:Integer", "string": "sc:Text", "bool": "sc:Boolean"}

_PARQUET, _FILES = "application/x-parquet", "parquet-files"

# Google's bucket, by its two addresses.
_GOOGLES_BUCKET = ("gs://quickdraw_dataset/", BASE_URL.removesuffix("full/numpy_bitmap"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A dataset's summary for the manifest, its shards' file entries, its contact sheets."""

    summary: dict[str, Any]
    shards: tuple[FileEntry, ...]
    sheets: dict[str, bytes] = field(default_factory=dict)


def describe(
    spec: DatasetSpec,
    source: Source,
    plan: BuildPlan,
    records: Sequence[ShardRecord],
    sheets: dict[str, bytes],
) -> Described:
    """Gather what is known of a built dataset."""
    tally = plan.tally
    summary = {
        "class_names": list(spec.class_names),
        "tfds_ids": [tfds_id(name) for name in spec.class_names],
        "image_shape": list(spec.image_shape),
        "num_drawings": sum(record.rows for record in records),
        "splits": {name: sum(tally.counts[name].values()) for name in spec.split_names},
        "counts": tally.counts,
        "dropped": tally.dropped,
        "bad_files": [without_folder(file, reason) for file, reason in tally.bad_files],
        "repairs": dict(source.repairs),
        **_row_notes(tally),
        "content_digest": content_digest(
            spec, {s: sum(c.values()) for s, c in tally.counts.items()}, content_total(records)
        ),
        "content_sum": f"{content_total(records):032x}",
        "statistics": statistics(
            spec,
            sum(record.rows for record in records),
            sum(record.pixel_sum for record in records),
            sum(record.pixel_square_sum for record in records),
        )
        | {"ink_histogram": tally.ink},
        "is_synthetic": source.is_synthetic,
        "source": source.name,
        "source_files": source_files(source),
        **source_credit(spec, source).to_json(),
        **slice_note(spec, source),
        **splits_note(source),
    }
    shards = tuple(entry for record in records for entry in record.files)
    return Described(summary=summary, shards=shards, sheets=sheets)


def splits_note(source: Source) -> dict[str, object]:
    """Return that the files' own splits were merged, for plans and manifests; empty if not."""
    merged = source.merged_splits()
    return {"merged_splits": merged} if merged else {}


def croissant_json(
    spec: DatasetSpec, name: str, summary: Mapping[str, Any], shards: Sequence[FileEntry]
) -> str:
    """Return croissant.json: one file object a shard, with its SHA-256, and the columns."""
    files = [entry for entry in shards if entry.path.startswith("data/")]
    credit = credit_of(summary)
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{summary['num_drawings']} drawings of {len(spec.class_names)} classes.",
        **credit.croissant(),
        "version": "1.0.0",
        # The content digest, not the day: the same dataset has the same metadata.
        "citeAs": credit.cite_as(f"Content digest {summary['content_digest']}."),
        "distribution": [file_object(entry, _PARQUET) for entry in files]
        + [file_set(_FILES, _PARQUET, "data/*.parquet")],
        "recordSet": [_drawings(spec)],
    }
    return json.dumps(content, indent=1) + "\n"


def source_credit(spec: DatasetSpec, source: Source) -> Credit:
    """Return license and attribution of the drawings that a dataset is made of.

    Google's are files with the SHA-256 of one of its .npy files, files read from its bucket, and
    what the user calls so (`attribution` "quickdraw"); doodles are this program's. Else there is
    what the user states, in addition to these too. Raises ValueError for doodles called Google's.
    """
    said = Credit(license=spec.license, attribution=spec.attribution)
    if source.is_synthetic:
        if spec.attribution == QUICKDRAW:
            raise ValueError(
                "doodles are drawn by this program, not Google's: leave --attribution quickdraw out"
            )
        return both(said, DOODLES)
    if spec.attribution == QUICKDRAW:
        return both(Credit(license=spec.license), GOOGLES)
    num, total = sum(_is_googles(file) for file in source.files), len(source.files)
    if num == 0:
        return said
    if num == total:
        return both(said, GOOGLES)
    part = Credit(attribution=f"In part ({num} of {total} files): {GOOGLES.attribution}")
    # No license is said to hold for all as long as that of the rest is not stated.
    license_of_part = Credit(license=GOOGLES.license if said.license else "")
    return both(both(said, part), license_of_part)


def _row_notes(tally: Tally) -> dict[str, Any]:
    """Return what is said of single rows; nothing where all are as they should be."""
    notes: dict[str, Any] = {}
    if tally.bad_rows.number:
        notes["bad_rows"] = [bad_row_entry(row) for row in tally.bad_rows.named]
        notes["num_bad_rows"] = tally.bad_rows.number
    if tally.repaired:
        notes["repaired"] = tally.repaired
    return notes


def without_folder(file: str, reason: str) -> dict[str, str]:
    """Return a bad file's entry; its folder differs from machine to machine."""
    name = PurePosixPath(file).name
    return {"file": name, "reason": reason.replace(file, name)}


def source_files(source: Source) -> list[dict[str, Any]]:
    """Return what identifies each file that was read: name, class, rows, size, digest.

    Without its folder, which differs from machine to machine.
    """
    read = [each for file in source.files for each in (file, file.metadata) if each is not None]
    described = [
        {
            "file": PurePosixPath(each.url).name,
            "class_name": each.class_name,
            "rows": each.rows,
            "bytes": each.bytes,
            "digest": each.digest,
        }
        for each in read
    ]
    return sorted(described, key=lambda each: (each["class_name"] or "", each["file"]))


def content_total(records: Sequence[ShardRecord]) -> int:
    """Return the 128-bit sum over the drawings of all shards."""
    return add_sums(*(int(record.content, 16) for record in records))


def content_digest(spec: DatasetSpec, rows: Mapping[str, int], total: int) -> str:
    """Return the digest of drawings, classes and splits: the same for every format and layout.

    rows   drawings by split
    total  the sum that `content_total` gives
    """
    return digest_of(
        {
            "class_names": sorted(spec.class_names),
            "image_shape": spec.image_shape,
            "rows": rows,
            "sum": f"{total:032x}",
        }
    )


def statistics(
    spec: DatasetSpec, rows: int, pixel_sum: int, pixel_square_sum: int
) -> dict[str, float]:
    """Return mean and variance of all pixels, in 0..255, with the exact sums they come from."""
    height, width = spec.image_shape
    pixels = rows * height * width
    mean = pixel_sum / pixels
    return {
        "pixel_mean": mean,
        "pixel_variance": pixel_square_sum / pixels - mean * mean,
        "pixel_sum": pixel_sum,
        "pixel_square_sum": pixel_square_sum,
    }


def publish_files(
    spec: DatasetSpec, name: str, prefix: str, described: Described, store: Store
) -> tuple[FileEntry, ...]:
    """Put everything but the shards and return the entries of all files, shards included."""
    texts: dict[str, str] = {CARD_NAME: dataset_card(spec, name, described)}
    if "parquet" in spec.formats:
        texts[CROISSANT_NAME] = croissant_json(spec, name, described.summary, described.shards)
    if "tfrecord" in spec.formats:
        texts |= _tfds_files(spec, name, described)
    contents = {path: text.encode() for path, text in texts.items()} | described.sheets
    for path, content in sorted(contents.items()):
        store.put(f"{prefix}/{path}", content)
    return artifact_entries(contents) + described.shards


def dataset_card(spec: DatasetSpec, name: str, described: Described) -> str:
    """Return README.md: Hugging Face's YAML with exact sizes, then a page for people."""
    summary = described.summary
    yaml = card_yaml(
        credit_of(summary),
        dataset_schema(spec),
        _files_by_split(spec, described, "data/"),
        is_synthetic=summary["is_synthetic"],
    )
    return yaml + _card_text(name, summary)


def _tfds_files(spec: DatasetSpec, name: str, described: Described) -> dict[str, str]:
    columns = list(dataset_schema(spec))[2:] if spec.with_metadata else []
    texts = tfds_files(
        name,
        spec.class_names,
        spec.image_shape,
        credit_of(described.summary),
        _files_by_split(spec, described, f"{TFRECORD_DIR}/"),
        columns={column.name: str(column.type) for column in columns},
        is_raw=spec.tfrecord_images == "raw",
    )
    return {f"{TFRECORD_DIR}/{tfds_directory(name)}/{path}": text for path, text in texts.items()}


def _files_by_split(
    spec: DatasetSpec, described: Described, folder: str
) -> dict[str, list[FileEntry]]:
    """Return the shards in a folder of each split that has any."""
    files = [entry for entry in described.shards if entry.path.startswith(folder)]
    found = {split: [e for e in files if e.split == split] for split in spec.split_names}
    return {split: entries for split, entries in found.items() if entries}


def _card_text(name: str, summary: dict[str, Any]) -> str:
    splits, height = summary["splits"], summary["image_shape"][0]
    kind = "Synthetic drawings, made by a program" if summary["is_synthetic"] else "Drawings"
    counts = "\n".join(
        f"| {class_name} | "
        + " | ".join(str(summary["counts"][s][class_name]) for s in splits)
        + " |"
        for class_name in summary["class_names"]
    )
    dropped = {reason: sum(by.values()) for reason, by in summary["dropped"].items()}
    gone = ", ".join(f"{reason} {number:,}" for reason, number in sorted(dropped.items())) or "none"
    return f"""
# {name}

{kind}, {height}x{height} pixels, gray, white on black (0 is paper, 255 ink):
{summary["num_drawings"]:,} of {len(summary["class_names"])} classes.

| class | {" | ".join(splits)} |
|---|{"---|" * len(splits)}
{counts}

Dropped: {gone}. A drawing's split follows from its pixels, so equal drawings are in one split
and adding classes moves none.

Content digest: `{summary["content_digest"]}`

The pictures are PNGs without compression inside compressed Parquet. `load_dataset` without
`streaming=True` unpacks them into a cache of about 900 bytes a drawing.

{credit_of(summary).statement}
"""


def _drawings(spec: DatasetSpec) -> dict[str, Any]:
    fields = [
        croissant_field(
            "drawings/image",
            "sc:ImageObject",
            from_set(_FILES, {"column": "image"}, jsonPath="bytes"),
        )
    ]
    fields += [
        croissant_field(
            f"drawings/{f.name}", _TYPES[str(f.type)], from_set(_FILES, {"column": f.name})
        )
        for f in list(dataset_schema(spec))[1:]
    ]
    return record_set("drawings", f"One drawing a row; {_label_text(spec)}", fields)


def _label_text(spec: DatasetSpec) -> str:
    """Say what a label means; shards of one class have TFDS's numbers, for any list of classes."""
    if spec.layout != "linked":
        return "a label is a position in: " + ", ".join(spec.class_names)
    numbers = [f"{tfds_id(name)} {name}" for name in spec.class_names]
    return "a label is the class's number in TensorFlow Datasets: " + ", ".join(numbers)


def _is_googles(file: SourceFile) -> bool:
    return is_official(file.digest) or file.url.startswith(_GOOGLES_BUCKET)
