"""`sketchmill build`: from a source and a class list to a dataset in the store."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.options import BadInput, Classes, Common, Stated, listed
from flows.stages.params import BuildParams, source_name
from flows.terminal import run_stage
from pipelines.dataset.spec import parse_splits
from pipelines.store.manifest import drawings_by_split

ALL = Common()
SEED = Classes()
UNSTATED = Stated()
FAIL = BadInput()

# Scan and build on a core of an AMD EPYC, in drawings/s: bitmaps are read in place, pictures
# decoded, strokes drawn; raw ones are simplified first.
PER_SEC = {
    "npy": 100_000,
    "parquet": 10_000,
    "tfds": 3_000,
    "simplified": 3_000,
    "binary": 3_000,
    "raw": 550,
}


def build(
    *,
    source: str = "doodles",
    classes: Annotated[Classes, Parameter(name="*")] = SEED,
    name: str = "",
    seed: int = 0,
    image_size: int = 28,
    splits: str = "train=0.9,validation=0.05,test=0.05",
    format_: Annotated[str, Parameter(name="--format")] = "parquet",
    layout: Literal["packed", "linked"] = "packed",
    rows_per_shard: int | None = None,
    compression_level: int = 1,
    tfrecord_images: Literal["png", "raw"] = "png",
    tfds_slice: str | None = None,
    max_per_class: int | None = None,
    fraction: float = 1.0,
    recognized_only: bool = False,
    countries: str = "",
    blank: Literal["keep", "drop"] | None = None,
    min_ink: int = 1,
    max_ink: int | None = None,
    duplicates: Literal["keep", "drop"] | None = None,
    near_duplicates: int | None = None,
    with_metadata: bool = False,
    bad: Annotated[BadInput, Parameter(name="*")] = FAIL,
    stated: Annotated[Stated, Parameter(name="*")] = UNSTATED,
    workers: int = 1,
    beam: Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True, negative=())] = (),
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Make a dataset of the chosen classes: shards and a manifest.

    Parameters
    ----------
    source
        doodles, quickdraw, or a path or URL of files in a Quick, Draw! layout, of Parquet with
        pictures and labels, or of a dataset that TFDS has prepared.
    name
        Name in the store; by default made from the source, so that two directories of one name
        share it (their digests differ, "latest" is the one built last).
    seed
        Of the doodles, the splits and the shuffle.
    image_size
        Pixels a side; only sources of strokes can be drawn at other sizes than 28.
    splits
        Names and fractions that add up to 1; a drawing's pixels decide its split.
    format_
        parquet, tfrecord or both: "parquet,tfrecord".
    layout
        packed: shards mix the classes; linked: shards of one class, shared between datasets.
    rows_per_shard
        Drawings in a shard; 65,536 or less by default.
    compression_level
        Of zstd in Parquet: 1 is fast; 10 makes 28x28 drawings of 298 bytes 285 and takes four times
        as long.
    tfrecord_images
        png, as TFDS writes them, or raw: 784 bytes, much faster.
    tfds_slice
        Exactly the drawings that a TFDS slice selects, such as "train[:500000]".
    max_per_class
        Only the first so many drawings of each class.
    fraction
        Part of the drawings, chosen by their hash.
    recognized_only
        Only drawings that the game recognized; the source must know.
    countries
        Only these, as two capital letters each: "US,DE"; the source must know.
    blank
        drop or keep drawings without ink. Default: drop; keep under --tfds-slice.
    min_ink
        Drop drawings with fewer inked pixels, but some.
    max_ink
        Drop drawings with more inked pixels.
    duplicates
        drop or keep drawings of the same pixels as one before them in their class. Default: drop;
        keep under --tfds-slice.
    near_duplicates
        Drop drawings whose 64-bit difference hash is so many bits from a kept one, or nearer.
    with_metadata
        Keep key_id, country_code, recognized and timestamp as columns.
    workers
        Processes on this machine.
    beam
        A flag for Beam, passed on untouched, e.g. --beam=--runner=FlinkRunner; repeatable.
    """
    from pipelines.sources.files import without_secrets  # which takes a moment

    params = BuildParams(
        store=common.store,
        name=name or source_name(source),
        source=without_secrets(source),
        classes=classes.written(),
        seed=seed,
        image_size=image_size,
        splits=parse_splits(splits),
        formats=listed(format_),
        layout=layout,
        rows_per_shard=rows_per_shard,
        compression_level=compression_level,
        tfrecord_images=tfrecord_images,
        tfds_slice=tfds_slice,
        max_per_class=max_per_class,
        fraction=fraction,
        recognized_only=recognized_only,
        countries=listed(countries),
        blank=blank,
        min_ink=min_ink,
        max_ink=max_ink,
        duplicates=duplicates,
        near_duplicates=near_duplicates,
        with_metadata=with_metadata,
        on_bad_file=bad.on_bad_file,
        on_bad_row=bad.on_bad_row,
        max_bad_rows=bad.max_bad_rows,
        max_points=bad.max_points,
        max_line_bytes=bad.max_line_bytes,
        max_pixels=bad.max_pixels,
        max_row_groups=bad.max_row_groups,
        license=stated.license,
        attribution=stated.attribution,
        workers=workers,
        beam_args=beam,
    )
    run_stage(common, plan=lambda: plan_build(params), work=lambda: work_build(params))


def plan_build(params: BuildParams) -> Mapping[str, Any]:
    """Return the spec and what building would do, from file sizes alone."""
    from flows.stages.base import check_runner, dataset_work
    from pipelines.dataset.build import plan_dataset
    from pipelines.dataset.credit import source_credit
    from pipelines.dataset.describe import splits_note
    from pipelines.dataset.tfds_slice import slice_note
    from pipelines.store.artifacts import open_store

    check_runner(params)
    spec, source = dataset_work(params, plan_only=True)
    made = plan_dataset(spec, source, open_store(params.store), params.name)
    plan: dict[str, Any] = {"spec": spec.to_json()} | dataclasses.asdict(made)
    if not source.is_known:
        plan["digest"] = None  # known once the doodles are drawn
    seconds = sum(file.rows / PER_SEC[file.format] for file in source.files) or 1.0
    plan["estimated_sec"] = math.ceil(seconds / params.workers)
    plan["estimate"] = f"at {source.rows / seconds:,.0f} drawings/s a process, after any download"
    notes = source_credit(spec, source).to_json() | slice_note(spec, source)
    return plan | notes | splits_note(source)


def work_build(params: BuildParams) -> Mapping[str, Any]:
    """Build and return the digest and the counts."""
    from flows.stages.base import build as build_stage

    manifest = build_stage(params)
    result: dict[str, Any] = {
        "dataset": manifest.digest,
        "name": manifest.name,
        "drawings": drawings_by_split(manifest),
    }
    for key in ("dropped", "repaired"):
        if found := manifest.summary.get(key):
            result[key] = {reason: sum(by.values()) for reason, by in found.items()}
    if merged := manifest.summary.get("merged_splits"):
        result["merged_splits"] = merged
    return result
