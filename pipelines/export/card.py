"""What an export says of itself: the Hugging Face card and the README at its root."""

import json
from collections.abc import Iterator, Sequence

from pipelines.export.job import Job, Record
from pipelines.tfrecord import tfds_name

_LOAD = {
    "hf": 'datasets.load_dataset("hf")["{split}"]',
    "tfds": 'tfds.load("{tfds}", data_dir="tfds", split="{split}")',
    "webdataset": 'webdataset.WebDataset("webdataset/{split}-000000.tar").decode("pil")',
    "numpy_bitmap": 'numpy.load("numpy_bitmap/{class_name}.npy").reshape(-1, {height}, {width})',
    "idx": "any reader of MNIST's files; idx/label_map.csv names the labels",
    "png": 'datasets.load_dataset("imagefolder", data_dir="png")["{split}"]',
}


def hf_card(job: Job, records: Sequence[Record]) -> bytes:
    """Return hf/README.md: YAML, then a page for people with exact sizes."""
    yaml = "\n".join(_yaml(job))
    table = "\n".join(
        ["| split | drawings | files | bytes |", "|---|---|---|---|", *_rows(job, records)]
    )
    return f"---\n{yaml}\n---\n\n# {job.name}\n\n{_about(job)}{table}\n".encode()


def export_readme(job: Job, records: Sequence[Record]) -> bytes:
    """Return the README of the whole export: what it is, how to load and to cite it."""
    lines = [f"# {job.name}", "", _about(job), "## Load it", ""]
    lines += [f"- `{name}`: `{text}`" for name, text in load_lines(job, records).items()]
    lines += [
        "",
        "`manifest.json` has the size and SHA-256 of every file and the full recipe,",
        "`provenance.json` the same as an in-toto statement, `croissant.json` the description for",
        "dataset search.",
    ]
    return ("\n".join(lines) + "\n").encode()


def load_lines(job: Job, records: Sequence[Record]) -> dict[str, str]:
    """Return how to open each format of the export, relative to its root."""
    bitmaps = [entry.path for record in records for entry in record.files]
    names = [path for path in bitmaps if path.startswith("numpy_bitmap/")]
    first = names[0].removeprefix("numpy_bitmap/").removesuffix(".npy") if names else ""
    height, width = job.image_shape
    return {
        name: _LOAD[name].format(
            split=job.splits[0],
            tfds=tfds_name(job.name),
            class_name=first,
            height=height,
            width=width,
        )
        for name in job.spec.formats
    }


def _yaml(job: Job) -> list[str]:
    lines = [*job.credit.hub_lines(), "task_categories:", "- image-classification"]
    lines += ["tags:", *(f"- {tag}" for tag in job.credit.hub_tags())]
    lines += ["- synthetic"] * job.is_synthetic
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in job.splits:
        lines += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    return lines


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
