"""PNG tree: `<split>/<class>/<row>.png` and a metadata.csv per split, for `imagefolder`.

    png/train/metadata.csv               file_name, label, class_name, then all other columns
    png/train/sea turtle/000000017.png
    png-classes.csv                      label, class_name, folder
    png/checksums/train-00000-of-00004   for `sha256sum --check`, run in png/

The manifest lists up to 20,000 pictures. Beyond that it would be too large to be useful: such an
export goes to a place of the user's, and the manifest lists the checksum files, which list the
pictures. The other formats have no such limit.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipelines.drawings.class_paths import class_table, path_names
from pipelines.drawings.croissant import field, file_set, from_set, record_set
from pipelines.drawings.stored_png import png_bytes
from pipelines.export.formats.base import NAMES_AS_TEXT, Format, Loader
from pipelines.export.job import Job, Record, Unit, cut_rows, range_units
from pipelines.export.rows import Batch, count_labels, file_names, read_rows
from pipelines.export.target import Target
from pipelines.store.artifacts import Store
from pipelines.store.manifest import FileEntry

MAX_LISTED = 20_000
_ROWS_PER_UNIT = 8_192
_FILES = "png-files"


class PngTree(Format):
    """The format's entry in the registry."""

    name = "png"
    bytes_per_drawing = 880

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan ranges of pictures, and one metadata file a split."""
        del stage, records
        path = "png/checksums/{split}-{index:05d}-of-{count:05d}"
        pictures = range_units(
            job, format=self.name, task="pictures", rows_per_file=_ROWS_PER_UNIT, path=path
        )
        return pictures + [_metadata_unit(job, split) for split in job.splits]

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Write a range's pictures and their checksums, or a split's metadata."""
        if unit.task == "metadata":
            return _write_metadata(unit, job, source, target)
        counts = np.zeros(len(job.class_names), np.int64)
        directories = path_names(job.class_names)
        sums: list[str] = []
        listed: list[FileEntry] = []
        for batch in read_rows(
            source, job, unit.pieces, first_row=unit.first_row, columns=["image", "label"]
        ):
            counts += count_labels(batch, job)
            pictures = _pictures(batch, job, unit.split, directories)
            target.put_many(pictures)
            digests = [hashlib.sha256(png).hexdigest() for png in pictures.values()]
            named = list(zip(pictures, digests, strict=True))
            sums += [f"{digest}  {path.removeprefix('png/')}\n" for path, digest in named]
            if lists_pictures(job):
                size = png_bytes(job.image_shape)
                listed += [
                    FileEntry(path=path, bytes=size, sha256=digest, split=unit.split)
                    for path, digest in named
                ]
        with target.open(unit.outputs[0]) as sink:
            sink.write("".join(sums).encode())
        files = (sink.entry(rows=unit.rows, split=unit.split), *listed)
        return Record(name=unit.name, stage=0, files=files, counts=tuple(counts.tolist()))

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """List the folder of each class."""
        del records
        columns = {"folder": path_names(job.class_names)}
        return {"png-classes.csv": class_table(job.class_names, columns)}

    def unlisted_problems(self, job: Job, records: Sequence[Record], target: Target) -> list[str]:
        """Return the directories whose pictures are too few, too many or of another size."""
        if lists_pictures(job):
            return []
        size = png_bytes(job.image_shape)
        problems = []
        for split in job.splits:
            own = [r.counts for r in records if r.counts and r.files[0].split == split]
            counts = np.sum(own, axis=0).tolist()
            for name, count in zip(path_names(job.class_names), counts, strict=True):
                problems.append(_directory_problem(target, f"png/{split}/{name}", count, size))
        return [problem for problem in problems if problem]

    def is_whole(self, record: Record, target: Target) -> bool:
        """Return whether every picture of the record is there with its content."""
        if any(entry.path.endswith(".png") for entry in record.files):
            return True  # they are entries of the record, which are checked already
        for entry in record.files:
            if not entry.path.startswith("png/checksums/"):
                continue
            for line in target.store.get(target.path(entry.path)).decode().splitlines():
                digest, _, name = line.partition("  ")
                if _sha256(target, f"png/{name}") != digest:
                    return False
        return True

    def loaders(self, job: Job, records: Sequence[Record]) -> list[Loader]:
        """Return what opens the format: `datasets`, and Keras."""
        del records
        split = job.splits[0]
        height, width = job.image_shape
        names = f'names = list(pandas.read_csv("png-classes.csv", {NAMES_AS_TEXT}).class_name)'
        datasets = f'''import datasets
import pandas

{names}
drawings = datasets.load_dataset("imagefolder", data_files={{"{split}": "png/{split}/**"}})
drawings = drawings["{split}"].cast_column("label", datasets.ClassLabel(names=names))'''
        keras = f"""import keras
import pandas

{names}
rows = pandas.read_csv("png/{split}/metadata.csv", {NAMES_AS_TEXT})
labels = [label for _, label in sorted(zip(rows.file_name.str.split("/"), rows.label))]
drawings = keras.utils.image_dataset_from_directory(
    "png/{split}", labels=labels, color_mode="grayscale", image_size=({height}, {width})
)"""
        note = (
            "`png-classes.csv` has the folder of each class. Keras, and torchvision's `ImageFolder`, "
            "number classes by the order of their folders; these lines take the labels of "
            "`metadata.csv`, which are positions in `names`."
        )
        return [Loader("png", datasets), Loader("png in Keras", keras, note)]

    def describe(self, path: str) -> str:
        """Return what the lists of checksums are; pictures by the thousand are not described."""
        is_list = path.startswith("png/checksums/")
        return "SHA-256 of pictures, for sha256sum --check." if is_list else ""

    def file_sets(self) -> list[dict[str, Any]]:
        """Return Croissant's set of the pictures."""
        return [file_set(_FILES, "image/png", "png/*/*/*.png")]

    def record_sets(self, job: Job) -> list[dict[str, Any]]:
        """Return the pictures with split, folder and label."""
        path, content = {"fileProperty": "filepath"}, {"fileProperty": "content"}
        # mlcroissant changes the key of a join where it stands, and again when it reads the field:
        # so the folder is not of the path that the split is of, and found in itself as well.
        inside = {"fileProperty": "fullpath"}
        folder = from_set(_FILES, inside, regex=r"(?:png/[^/]+/)?([^/]+)(?:/[^/]+)?$")
        split = from_set(_FILES, path, regex=r".*/([^/]+)/[^/]+/[^/]+$")
        fields = [
            field("pictures/image", "sc:ImageObject", from_set(_FILES, content)),
            field("pictures/split", "sc:Text", split),
            field("pictures/folder", "sc:Text", folder)
            | {"references": {"field": {"@id": "classes/folder"}}},
            field("pictures/label", "sc:Integer", {"field": {"@id": "classes/label"}}),
        ]
        text = "A label is a position in: " + ", ".join(job.class_names)
        return [record_set("pictures", text, fields)]

    def class_columns(self, job: Job) -> dict[str, Sequence[object]]:
        """Return the folder of each class."""
        return {"folder": path_names(job.class_names)}


def _directory_problem(target: Target, directory: str, count: int, size: int) -> str:
    sizes = target.file_sizes(directory)
    wrong = sorted(path for path, found in sizes.items() if found != size)
    if wrong:
        return f"{wrong[0]} is not of {size} bytes"
    return "" if len(sizes) == count else f"{directory} has {len(sizes)} of {count} pictures"


def lists_pictures(job: Job) -> bool:
    """Return whether the manifest lists every picture."""
    return sum(shard.rows for shard in job.shards) <= MAX_LISTED


def _pictures(batch: Batch, job: Job, split: str, directories: Sequence[str]) -> dict[str, bytes]:
    pngs = batch.pngs(job.image_shape)
    names = file_names(
        directories, batch.table["label"].combine_chunks(), batch.first_row
    ).to_pylist()
    contents = np.ascontiguousarray(pngs).view(f"V{pngs.shape[1]}").ravel().tolist()
    return {f"png/{split}/{name}": png for name, png in zip(names, contents, strict=True)}


def _metadata_unit(job: Job, split: str) -> Unit:
    shards = [shard for shard in job.shards if shard.split == split]
    return Unit(
        format="png",
        stage=0,
        task="metadata",
        name=f"png-metadata-{split}",
        split=split,
        pieces=cut_rows(shards, 0, job.rows(split)),
        outputs=(f"png/{split}/metadata.csv",),
    )


def _write_metadata(unit: Unit, job: Job, source: Store, target: Target) -> Record:
    directories = path_names(job.class_names)
    columns = ["label", *job.columns]
    with target.open(unit.outputs[0]) as sink:
        for batch in read_rows(source, job, unit.pieces, first_row=0, columns=columns):
            labels = batch.table["label"].combine_chunks()
            fields = {
                "file_name": file_names(directories, labels, batch.first_row),
                "label": labels,
                "class_name": pa.array(list(job.class_names), pa.string()).take(labels),
            }
            fields |= {name: batch.table[name] for name in job.columns}
            options = pa.csv.WriteOptions(include_header=batch.first_row == 0)
            buffer = io.BytesIO()
            pa.csv.write_csv(pa.table(fields), buffer, options)
            sink.write(buffer.getvalue())
    entry = sink.entry(rows=job.rows(unit.split), split=unit.split)
    return Record(name=unit.name, stage=0, files=(entry,))


def _sha256(target: Target, relative: str) -> str:
    try:
        return hashlib.sha256(target.store.get(target.path(relative))).hexdigest()
    except FileNotFoundError:
        return ""
