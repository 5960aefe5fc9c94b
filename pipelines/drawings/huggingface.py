"""The Hugging Face card lines that `load_dataset` reads: files, columns, class names, sizes.

`datasets` caches by the last part of the folder's path and a hash of these lines, without looking
into the files: two folders with equal cards are one dataset to it. The description, which it hashes
too, is therefore a digest of the files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.drawings.credit import Credit
from pipelines.store.manifest import FileEntry, digest_of


def card_yaml(
    credit: Credit,
    schema: pa.Schema,
    splits: Mapping[str, Sequence[FileEntry]],
    *,
    is_synthetic: bool,
) -> str:
    """Return the YAML of a card, between its lines of "---": license, tags, what `datasets` reads.

    schema  of the files, as `pipelines.drawings.parquet.shard_schema` makes it
    splits  the files data/<split>-*.parquet of each split that has rows, in order; {} if there
            is no Parquet
    """
    lines = [*credit.hub_lines(), "task_categories:", "- image-classification", "tags:"]
    lines += [f"- {tag}" for tag in [*credit.hub_tags(), *["synthetic"] * is_synthetic]]
    if splits:
        lines += _loader_lines(schema, splits)
    return "---\n" + "\n".join(lines) + "\n---\n"


def _loader_lines(schema: pa.Schema, splits: Mapping[str, Sequence[FileEntry]]) -> list[str]:
    """Return the YAML lines `configs` and `dataset_info`."""
    digest = digest_of([[entry.sha256 for entry in files] for files in splits.values()])
    lines = ["configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    lines += ["dataset_info:", f"  description: Files {digest}", "  features:"]
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    for name, feature in features.items():
        lines += [f"  - name: {name}", *_type_lines(feature)]
    lines += ["  splits:"]
    for split, files in splits.items():
        rows = sum(entry.rows or 0 for entry in files)
        lines += [f"  - name: {split}", f"    num_bytes: {_size(files)}"]
        lines += [f"    num_examples: {rows}"]
    total = sum(_size(files) for files in splits.values())
    return [*lines, f"  download_size: {total}", f"  dataset_size: {total}"]


def _type_lines(feature: Mapping[str, Any]) -> Iterator[str]:
    if feature["_type"] != "ClassLabel":
        yield f"    dtype: {feature.get('dtype', feature['_type'].lower())}"
        return
    yield from ("    dtype:", "      class_label:", "        names:")
    for label, name in enumerate(feature["names"]):
        yield f"          '{label}': {_quoted(name)}"


def _quoted(text: str) -> str:
    """Return a YAML string; not JSON's, whose escapes of a character beyond 16 bits are two.

    >>> _quoted('say "hi"')
    '"say \\\\U00000022hi\\\\U00000022"'
    """
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(plain)}"'


def _size(files: Sequence[FileEntry]) -> int:
    return sum(entry.bytes for entry in files)
