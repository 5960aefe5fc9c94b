"""`sketchmill build`: from a source and a class list to a dataset in the store."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Group, Parameter

from flows.options import MAIN, Classes, Output
from flows.stages.params import BuildParams
from flows.terminal import run_stage
from pipelines.store.manifest import drawings_by_split

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


DATASET = Group("The dataset", sort_key=1)


def build(
    *,
    params: Annotated[BuildParams, Parameter(name="*", group=DATASET)] = BuildParams(),
    classes: Annotated[Classes, MAIN] = Classes(),
    output: Output = Output(),
) -> None:
    """Make a dataset of the chosen classes: shards and a manifest."""
    from pipelines.sources.files import without_secrets  # which takes a moment

    given = dataclasses.replace(
        params, classes=classes.written(), source=without_secrets(params.source)
    )
    run_stage(output, plan=lambda: plan_build(given), work=lambda: work_build(given))


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
