"""What an export says of itself: the Hugging Face card and the README at its root."""

import json
from collections.abc import Iterator, Sequence
from string import Template

import pyarrow as pa

from pipelines.drawings.huggingface import loader_lines
from pipelines.drawings.parquet import shard_schema
from pipelines.export.formats.idx import idx_paths, label_type
from pipelines.export.formats.tfds import tfds_directory
from pipelines.export.job import Job, Record

# pandas takes "NA" for a missing value and "007" for 7 unless told otherwise.
_AS_TEXT = 'keep_default_na=False, dtype={"class_name": str}'
# What opens a format, run in the export's folder.
_LOAD = {
    "hf": """
import datasets

drawings = datasets.load_dataset("hf")["$split"]
""",
    "tfds": """
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory("$tfds")
drawings = builder.as_dataset(split="$split")
""",
    "webdataset": """
import webdataset

tars = "webdataset/$split-{000000..$last_tar}.tar"
drawings = webdataset.WebDataset(tars, shardshuffle=False).decode("l8")
""",
    "numpy_bitmap": """
import numpy
import pandas

table = pandas.read_csv("numpy_bitmap-classes.csv", $as_text)
drawings = {
    row.class_name: numpy.load("numpy_bitmap/" + row.file).reshape(-1, $height, $width)
    for row in table[table.drawings > 0].itertuples()
}
""",
    "idx": """
import numpy
import pandas

images = numpy.fromfile("$images", "u1", offset=16).reshape(-1, $height, $width)
labels = numpy.fromfile("$labels", "$label_type", offset=8)
names = list(pandas.read_csv("idx/label_map.csv", $as_text).class_name)
""",
    "png": """
import datasets
import pandas

names = list(pandas.read_csv("png-classes.csv", $as_text).class_name)
drawings = datasets.load_dataset("imagefolder", data_files={"$split": "png/$split/**"})
drawings = drawings["$split"].cast_column("label", datasets.ClassLabel(names=names))
""",
    "png in Keras": """
import keras
import pandas

names = list(pandas.read_csv("png-classes.csv", $as_text).class_name)
rows = pandas.read_csv("png/$split/metadata.csv", $as_text)
labels = [label for _, label in sorted(zip(rows.file_name.str.split("/"), rows.label))]
drawings = keras.utils.image_dataset_from_directory(
    "png/$split", labels=labels, color_mode="grayscale", image_size=($height, $width)
)
""",
}
_NOTES = {
    "tfds": "`tfds.load` takes a name, which may be one of TensorFlow Datasets' own.",
    "webdataset": "`webdataset/dataset.json` names the labels.",
    "numpy_bitmap": (
        "A file has the drawings of all splits, split after split: `numpy_bitmap-classes.csv` has "
        "the number of each ({splits}), and the file of each class."
    ),
    "png in Keras": (
        "`png-classes.csv` has the folder of each class. Keras, and torchvision's `ImageFolder`, "
        "number classes by the order of their folders; these lines take the labels of "
        "`metadata.csv`, which are positions in `names`."
    ),
}
# Where pandas takes a name for a missing value unless told otherwise.
_MISSING = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


def hf_card(job: Job, records: Sequence[Record]) -> bytes:
    """Return hf/README.md: YAML, then a page for people with exact sizes."""
    yaml = "\n".join(_yaml(job, records))
    table = "\n".join(
        ["| split | drawings | files | bytes |", "|---|---|---|---|", *_rows(job, records)]
    )
    return f"---\n{yaml}\n---\n\n# {job.name}\n\n{_about(job)}{table}\n".encode()


def export_readme(job: Job, records: Sequence[Record]) -> bytes:
    """Return the README of the whole export: what it is, how to load and to cite it."""
    lines = [f"# {job.name}", "", _about(job), "## Load it", ""]
    for name, code in load_lines(job, records).items():
        note = _NOTES.get(name, "").format(splits=", ".join(job.splits))
        lines += [f"### {name}", "", "```python", code, "```", "", *[note, ""] * bool(note)]
    if missing := [name for name in job.class_names if name in _MISSING]:
        shown = ", ".join(f"`{name}`" for name in missing)
        lines += [
            f"Without `keep_default_na=False` pandas takes {shown} for a missing `class_name`, and "
            "so does `imagefolder`; labels are numbers.",
            "",
        ]
    lines += [
        "`manifest.json` has the size and SHA-256 of every file and the full recipe,",
        "`provenance.json` the same as an in-toto statement, `croissant.json` the description for",
        "dataset search.",
    ]
    return ("\n".join(lines) + "\n").encode()


def load_lines(job: Job, records: Sequence[Record]) -> dict[str, str]:
    """Return the code that opens each format, to be run at the root of the export."""
    split = job.splits[0]
    paths = [entry.path for record in records for entry in record.files]
    height, width = job.image_shape
    images, labels = idx_paths(job, split)
    fields = {
        "as_text": _AS_TEXT,
        "split": split,
        "tfds": tfds_directory(job),
        "last_tar": f"{sum(path.startswith(f'webdataset/{split}-') for path in paths) - 1:06d}",
        "images": images,
        "labels": labels,
        "label_type": label_type(len(job.class_names))[1].str.lstrip("|"),
        "height": height,
        "width": width,
    }
    return {
        name: Template(code.strip()).substitute(fields)
        for name, code in _LOAD.items()
        if name.partition(" ")[0] in job.spec.formats
    }


def _yaml(job: Job, records: Sequence[Record]) -> list[str]:
    lines = [*job.credit.hub_lines(), "task_categories:", "- image-classification"]
    lines += ["tags:", *(f"- {tag}" for tag in job.credit.hub_tags())]
    lines += ["- synthetic"] * job.is_synthetic
    kinds = zip(job.columns, job.column_types, strict=True)
    extra = {name: pa.type_for_alias(kind) for name, kind in kinds}
    schema = shard_schema(job.class_names, job.image_shape, extra)
    entries = [entry for record in records for entry in record.files]
    splits = {split: [e for e in entries if e.split == split] for split in job.splits}
    return lines + loader_lines(schema, splits)


def _rows(job: Job, records: Sequence[Record]) -> Iterator[str]:
    entries = [entry for record in records for entry in record.files]
    for split in job.splits:
        files = [entry for entry in entries if entry.split == split]
        rows, size = sum(e.rows or 0 for e in files), sum(e.bytes for e in files)
        yield f"| {split} | {rows:,} | {len(files)} | {size:,} |"


def _about(job: Job) -> str:
    height, width = job.image_shape
    total = sum(job.rows(split) for split in job.splits)
    kind = "Generated drawings (synthetic, not made by people)" if job.is_synthetic else "Drawings"
    splits = ", ".join(f"{split} {job.rows(split):,}" for split in job.splits)
    names = ", ".join(json.dumps(name, ensure_ascii=False) for name in job.class_names)
    return (
        f"{kind}, {height}x{width} pixels, gray, white on black (0 is paper, 255 ink): {total:,} "
        f"of {len(job.class_names)} classes ({splits}).\n\nClasses in the order of their labels: "
        f"{names}.\n\n{job.credit.statement}\n\n"
    )
