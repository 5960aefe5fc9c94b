"""The build stage: from a source and a class list to a dataset in the store."""

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.options import (
    DATA,
    DEFAULT_STORE,
    FILES,
    HIDDEN,
    INPUT,
    LIMITS,
    RUNNING,
    Classes,
    EngineOptions,
    LabelNames,
    Listed,
    SourceText,
    Splits,
    StoreUrl,
    grouped,
    names_of,
)
from flows.stages.base import Inputs, Result, Stage, cache_folder, naming_cache, writable_cache
from flows.terminal import current
from pipelines.catalogue import ALL, SEED_CLASSES, resolve_names
from pipelines.dataset.spec import (
    DEFAULT_SPLITS,
    DatasetOptions,
    InputOptions,
    ReadOptions,
    SizeOptions,
)
from pipelines.drawings.limits import Limits, limits_of
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import Manifest, check_slug, drawings_by_split, slug
from pipelines.store.printable import printable

if TYPE_CHECKING:  # which imports NumPy
    from pipelines.sources.base import SourceOptions

# For "/" and names without a letter.
UNNAMED_SOURCE = "source"


# Number of a source's classes that an error lists.
SHOWN_NAMES = 25
_FILES = (
    *("seed", "image_size", "splits", "validation_part", "formats", "layout"),
    *("rows_per_shard", "compression_level", "tfrecord_images", "with_metadata"),
)
PANELS = {
    FILES: _FILES,
    DATA: tuple(name for name in names_of(DatasetOptions) if name not in _FILES),
    INPUT: names_of(InputOptions),
    LIMITS: names_of(Limits),
}


@grouped(PANELS)
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BuildParams(EngineOptions, Limits, InputOptions, DatasetOptions):
    """Make a dataset of the chosen classes: shards and a manifest.

    source is one of the kinds of pipelines.sources.kinds: doodles, quickdraw, or a path or URL.
    classes are names, "tfds:26", or "all" that the source has.

    Parameters
    ----------
    name
        Name in the store. By default that of the source: two directories of one name share it,
        their datasets have different digests, and the name alone means the one built last.
    workers
        Number of processes on this machine; ignored with --cluster or if --beam names a runner.
    """

    source: SourceText = "doodles"
    classes: Annotated[tuple[str, ...], HIDDEN] = SEED_CLASSES
    name: str = ""
    store: StoreUrl = DEFAULT_STORE
    workers: Annotated[int, RUNNING] = 1
    splits: Splits = DEFAULT_SPLITS
    formats: Annotated[Listed, Parameter(name="--format")] = ("parquet",)
    countries: Listed = ()
    label_names: LabelNames = ()

    def __post_init__(self) -> None:
        """Name the dataset after its source where it has no name."""
        object.__setattr__(self, "name", self.name or source_name(self.source))


def source_name(source: str) -> str:
    """Return a store name for a source: that of its directory.

    >>> source_name("/data/numpy_bitmap/"), source_name("doodles"), source_name("s3://bucket")
    ('numpy-bitmap', 'doodles', 'bucket')
    >>> source_name("https://me:pw@host/train.parquet?token=1"), source_name("https://me:pw@host")
    ('train-parquet', 'host')
    >>> source_name("quickdraw_bitmap/3.0.0")  # as TFDS names versions
    'quickdraw-bitmap'
    """
    place = PurePath(printable(source).split("://", 1)[-1])
    name = place.parent.name if re.fullmatch(r"\d+\.\d+\.\d+", place.name) else place.name
    if "://" not in source and name in ("", ".", ".."):
        name = Path(source).resolve().name
    cleaned = slug(name if re.search("[A-Za-z0-9]", name) else UNNAMED_SOURCE)
    return cleaned[:48].strip("-")


def check_runner(params: BuildParams) -> None:
    """Raise ValueError for an invalid name, runner or number of workers."""
    from pipelines.engines.flags import check_engine

    check_slug(params.name)
    check_engine(params.beam_args, params.workers, params.cluster)


def dataset_work(params: BuildParams, *, plan_only: bool = False):
    """Return the dataset's spec and its source, opened.

    plan_only: nothing is fetched or drawn for it; the content of doodles may not be known then.
    """
    from pipelines.dataset.selection import metadata_columns
    from pipelines.dataset.spec import DatasetSpec, with_source_splits
    from pipelines.sources.registry import open_source, plan_source

    names = source_names(params)
    shared = {f.name for f in dataclasses.fields(DatasetSpec)}
    shared &= {f.name for f in dataclasses.fields(BuildParams)}
    spec = DatasetSpec(class_names=names, **{name: getattr(params, name) for name in shared})
    options = source_options(
        params,
        columns=metadata_columns(spec),
        seed=params.seed,
        skip_bad_files=params.on_bad_file == "skip",
        every_class=[text.strip().lower() for text in params.classes] == [ALL],
        keeps_splits=spec.split_by == "source",
    )
    if plan_only:
        with naming_cache():
            source = plan_source(params.source, names, cache_folder(), options)
    else:
        cache, progress = writable_cache(), current()
        with naming_cache():
            source = open_source(params.source, names, cache, options, progress)
    if source.keeps_splits:
        spec = with_source_splits(spec, source.split_rows())
    return spec, source


def source_options(params: Limits, **more: Any) -> "SourceOptions":
    """Return how to open a source; `more` is what parameters do not say."""
    from pipelines.sources.base import SourceOptions

    names = {
        field.name for kind in (SizeOptions, ReadOptions) for field in dataclasses.fields(kind)
    }
    said = {name: getattr(params, name) for name in names}
    return SourceOptions(limits=limits_of(params), **said, **more)


def source_names(params: BuildParams) -> tuple[str, ...]:
    """Return the names of the chosen classes as the source has them.

    Raises ValueError for a class that is unknown or that the source lacks.
    """
    from pipelines.dataset.spec import check_names
    from pipelines.sources.registry import source_classes
    from pipelines.store.printable import printable

    options = source_options(params, keeps_splits=not params.splits)
    known = source_classes(params.source, options)
    names = resolve_names(params.classes, known or None)
    if known and (missing := [name for name in names if name not in known]):
        there = ", ".join(known[:SHOWN_NAMES]) + (", ..." if len(known) > SHOWN_NAMES else "")
        raise ValueError(
            f"source {printable(params.source)} has no drawings of {', '.join(missing)}; it has "
            f"{there} (--classes all takes every class there is)"
        )
    try:
        check_names(names)
    except ValueError as error:
        raise ValueError(f"source {printable(params.source)}: {error}") from error
    return names


def _plan(params: BuildParams, _inputs: Inputs, store: Store) -> Result:
    """Return the spec and what building would do, from file sizes alone."""
    from pipelines.dataset.build import plan_dataset
    from pipelines.dataset.describe import source_credit, splits_note
    from pipelines.dataset.tfds_slice import slice_note
    from pipelines.sources.kinds import file_format

    spec, source = dataset_work(params, plan_only=True)
    made = plan_dataset(spec, source, store, params.name)
    plan: dict[str, Any] = {"spec": spec.to_json()} | dataclasses.asdict(made)
    if not source.is_known:
        plan["digest"] = None  # known once the doodles are drawn
    seconds = sum(f.rows / file_format(f.format).per_sec for f in source.files) or 1.0
    plan["estimated_sec"] = math.ceil(seconds / params.workers)
    plan["estimate"] = f"at {source.rows / seconds:,.0f} drawings/s a process, after any download"
    notes = source_credit(spec, source).to_json() | slice_note(spec, source)
    return plan | notes | splits_note(source)


def _work(params: BuildParams, _inputs: Inputs, store: HeldStore) -> Manifest:
    from pipelines.dataset.build import build_dataset

    spec, source = dataset_work(params)
    return build_dataset(
        spec,
        source,
        store,
        params.name,
        beam_args=params.beam_args,
        workers=params.workers,
        cluster=params.cluster,
        progress=current(),
    )


def _result(_params: BuildParams, made: Manifest, _store: HeldStore) -> Result:
    """Return the digest and the counts."""
    result: dict[str, Any] = {
        "dataset": made.digest,
        "name": made.name,
        "drawings": drawings_by_split(made),
    }
    for key in ("dropped", "repaired"):
        if found := made.summary.get(key):
            result[key] = {reason: sum(by.values()) for reason, by in found.items()}
    if merged := made.summary.get("merged_splits"):
        result["merged_splits"] = merged
    return result


STAGE = Stage(
    name="build",
    title="Make a dataset of the chosen classes.",
    params=BuildParams,
    check=check_runner,
    plan=_plan,
    work=_work,
    result=_result,
    store="new",
    place="build",
    classes=Classes,
)
