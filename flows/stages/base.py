"""The stages as plain functions: parameters in, manifest out; no Prefect here.

Each resolves its parameters to a spec and asks the library, which answers at once if the store
has the result. While it works, what it resolves is leased (pipelines.store.held), as is what it makes.
Heavy libraries are imported in the stage that needs them.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from flows.stages.counts import read_counts
from flows.stages.params import BuildParams, ReportParams, SampleParams, TrainParams
from flows.terminal import current
from pipelines.catalogue import ALL, resolve_names
from pipelines.store.artifacts import Store, open_store
from pipelines.store.errors import FullError
from pipelines.store.held import HeldStore, held_store, working_store
from pipelines.store.leases import check_writable, holding
from pipelines.store.local_files import check_room
from pipelines.store.manifest import Kind, Manifest, check_slug, digest_of, slug
from pipelines.store.objects import NO_ROOM

# Of a source's classes in an error.
SHOWN_NAMES = 25
# Less than any source needs of it: what has not even this is full.
MIN_CACHE_BYTES = 1 << 16


def cache_folder() -> Path:
    """Return the folder of downloads and made doodles: $SKETCHMILL_CACHE or the user's cache."""
    own = os.environ.get("SKETCHMILL_CACHE")
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "sketchmill")
    return Path(os.path.expanduser(own or users))  # noqa: PTH111  Path's raises without a home


def writable_cache() -> Path:
    """Return that folder, made if it is not there.

    Raises ValueError if nothing can be written there, FullError if it is full.
    """
    folder = cache_folder()
    with naming_cache():
        check_room(folder, MIN_CACHE_BYTES)
        return folder


@contextlib.contextmanager
def naming_cache() -> Iterator[None]:
    """Raise an error that says how to move the cache in place of an OSError in it.

    FullError if it is full, else ValueError.
    """
    folder = cache_folder()
    try:
        yield
    except OSError as error:
        # What a full disk answers to a write names no file; errors of the store are another kind.
        is_full = error.errno in NO_ROOM
        failed = folder if is_full and error.filename is None else Path(str(error.filename))
        if not (failed.is_relative_to(folder) or folder.is_relative_to(failed)):
            raise
        kind = FullError if is_full else ValueError
        raise kind(
            f"the cache {folder} cannot be written ({error.strerror}): let the environment "
            "variable SKETCHMILL_CACHE name a folder that can"
        ) from error


def build(params: BuildParams) -> Manifest:
    """Make the dataset."""
    from pipelines.dataset.build import build_dataset

    check_runner(params)
    store = open_store(params.store)
    check_writable(store)
    spec, source = dataset_work(params)
    return build_dataset(
        spec,
        source,
        store,
        params.name,
        beam_args=params.beam_args,
        workers=params.workers,
        progress=current(),
    )


def check_runner(params: BuildParams) -> None:
    """Raise ValueError for a name, a runner or a number of workers that cannot be."""
    from pipelines.beam import runner_flags

    check_slug(params.name)
    runner_flags(params.beam_args, params.workers)


def dataset_work(params: BuildParams, *, plan_only: bool = False):
    """Return the dataset's spec and its source, opened.

    plan_only: nothing is fetched or drawn for it; the content of doodles may not be known then.
    """
    from pipelines.dataset.selection import metadata_columns
    from pipelines.dataset.spec import DatasetSpec
    from pipelines.sources.registry import SourceOptions, open_source, plan_source

    names = source_names(params)
    shared = {f.name for f in dataclasses.fields(DatasetSpec)}
    shared &= {f.name for f in dataclasses.fields(BuildParams)}
    spec = DatasetSpec(class_names=names, **{name: getattr(params, name) for name in shared})
    options = SourceOptions(
        image_size=spec.image_size,
        columns=metadata_columns(spec),
        seed=params.seed,
        skip_bad_files=params.on_bad_file == "skip",
        limits=spec.limits,
        every_class=[text.strip().lower() for text in params.classes] == [ALL],
    )
    if plan_only:
        with naming_cache():
            return spec, plan_source(params.source, names, cache_folder(), options)
    cache, progress = writable_cache(), current()
    asked = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    with naming_cache():
        return spec, open_source(params.source, names, cache, progress=progress, **asked)


def source_names(params: BuildParams) -> tuple[str, ...]:
    """Return the names of the chosen classes as the source has them.

    Raises ValueError for one that is unknown, or that the source has not.
    """
    from pipelines.dataset.spec import check_names
    from pipelines.drawings.limits import limits_of
    from pipelines.sources.registry import SourceOptions, source_classes
    from pipelines.store.printable import printable

    options = SourceOptions(image_size=params.image_size, limits=limits_of(params))
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


def train(params: TrainParams) -> Manifest:
    """Train the model in processes of their own."""
    from model.training.torchrun import train_in_processes

    with working_store(params.store, "train") as store:
        dataset = store.resolve("datasets", params.dataset)
        return train_in_processes(
            train_spec(params, dataset),
            dataset,
            store,
            model_name(params, dataset),
            num_processes=params.processes,
            options=run_options(params),
            progress=current(),
            torchrun_options=rendezvous_options(params),
        )


def model_name(params: TrainParams, dataset: Manifest) -> str:
    """Return the model's name, by default made from the dataset and the preset."""
    return params.name or slug(f"{dataset.name}-{params.preset}")


def run_options(params: TrainParams):
    """Return how training is carried out; raise ValueError if an option is out of range."""
    from model.options import RunOptions

    return RunOptions(
        work_dir=Path(params.work_dir).expanduser() if params.work_dir else None,
        device=params.device,
        micro_batch_size=params.micro_batch_size,
        checkpoint_interval_sec=params.checkpoint_interval_sec,
        num_grids=params.num_grids,
        compile=params.compile,
    )


def rendezvous_options(params: TrainParams) -> list[str]:
    """Return torchrun's flags for several machines, none for one.

    With a node rank the machines are counted, else the c10d rendezvous counts them. Raises
    ValueError if a flag is missing or is of no use.
    """
    flags = {
        "--node-rank": params.node_rank,
        "--rdzv-endpoint": params.rendezvous,
        "--rdzv-id": params.rendezvous_id,
        "--rdzv-conf": params.rendezvous_conf,
        "--local-addr": params.local_address,
    }
    given = {flag: value for flag, value in flags.items() if value not in ("", None)}
    if not re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", params.nodes):
        raise ValueError(f"--nnodes {params.nodes}: expected a number of machines or MIN:MAX")
    if params.nodes == "1":
        if given:
            raise ValueError(f"{', '.join(given)} is for several machines: give --nnodes too")
        return []
    if not params.rendezvous:
        raise ValueError("several machines need --rdzv-endpoint host:port beside --nnodes")
    num_nodes = int(params.nodes.rpartition(":")[2])
    if params.node_rank is not None and not 0 <= params.node_rank < num_nodes:
        raise ValueError(f"--node-rank {params.node_rank}: expected 0 to {num_nodes - 1}")
    backend = "c10d" if params.node_rank is None else "static"
    named = [f"{flag}={value}" for flag, value in given.items()]
    return [f"--nnodes={params.nodes}", f"--rdzv-backend={backend}", *named]


def train_spec(params: TrainParams, dataset: Manifest):
    """Return the preset's spec with the settings applied, fitted to the dataset."""
    from model.training.presets import preset
    from model.training.spec import apply_overrides, fit_to_dataset

    spec = dataclasses.replace(preset(params.preset), seed=params.seed)
    return fit_to_dataset(apply_overrides(spec, params.settings), dataset)


def sample(params: SampleParams) -> Manifest:
    """Draw new drawings."""
    from model.sampling.shards import sample_dataset

    with working_store(params.store, "sample") as store:
        model = store.resolve("models", params.model)
        return sample_dataset(
            sample_spec(params, model),
            model,
            store,
            params.name or model.name,
            processes=params.processes,
            progress=current(),
        )


def sample_spec(params: SampleParams, model: Manifest):
    """Return what decides the drawings.

    Raises ValueError for a class that the model lacks, or if it cannot be guided.
    """
    from model.sampling.spec import SampleSpec, model_labels

    known = tuple(model.summary["class_names"])
    names, per_class = params.classes or known, params.per_class
    if params.counts and params.classes:
        raise ValueError("give either --classes or --counts: the file names the classes")
    if params.counts:
        counts = read_counts(Path(params.counts))
        names, per_class = tuple(counts), tuple(counts.values())
    spec = SampleSpec(
        class_names=resolve_names(names, known),
        per_class=per_class,
        seed=params.seed,
        temperature=params.temperature,
        guidance=guidance(params.guidance, model),
        batch_size=params.batch_size,
        dtype=params.dtype,
        rows_per_shard=params.rows_per_shard,
    )
    model_labels(spec, known)
    return spec


def guidance(wanted: float | None, model: Manifest) -> float:
    """Return how much to guide a model, by default as it learned for.

    Raises ValueError if it cannot be guided so.
    """
    from model.network.config import PixelCNNConfig, check_guidance, default_guidance

    config = PixelCNNConfig.from_json_dict(model.spec.get("network", {}))
    if wanted is None:
        return default_guidance(config)
    check_guidance(wanted, config)
    return wanted


def sample_range(params: SampleParams, first: int, last: int) -> dict[str, Any]:
    """Draw some shards; publish if they were the last that the store lacked.

    first, last: shards of the plan, both included. Machines that share nothing but the store
    take ranges of their own. Raises ValueError if there are no such shards.
    """
    from model.sampling.shards import (
        make_shards,
        missing_shards,
        publish_samples,
        samples_prefix,
    )
    from model.sampling.spec import samples_digest

    with working_store(params.store, "sample") as store:
        model = store.resolve("models", params.model)
        spec, name = sample_spec(params, model), params.name or model.name
        if not 0 <= first <= last < spec.num_shards:
            raise ValueError(
                f"--shards {first}-{last}: the plan has the shards 0-{spec.num_shards - 1}"
            )
        digest = samples_digest(spec, model)
        with holding(store, [samples_prefix(spec, model, name)], "sample"):
            if not store.reuse("samples", name, digest):
                make_shards(
                    spec,
                    model,
                    store,
                    name,
                    shards=range(first, last + 1),
                    processes=params.processes,
                    progress=current(),
                )
            missing = len(missing_shards(spec, model, store, name))
            if not missing:
                publish_samples(spec, model, store, name)
    return {
        "samples": digest,
        "name": name,
        "shards": spec.num_shards,
        "missing_shards": missing,
        "is_published": not missing,
    }


def report(params: ReportParams) -> Manifest:
    """Draw the report of a samples dataset, its model and that model's dataset."""
    with working_store(params.store, "report") as store:
        return draw_report(params, store)


def draw_report(params: ReportParams, store: Store) -> Manifest:
    """Do what `report` does in a store that is open."""
    from model.report.page import make_report

    samples = store.resolve("samples", params.samples)
    model = parent(store, samples, "model")
    dataset = parent(store, model, "dataset")
    current()("report", 0, 1, "drawing")
    made = make_report(
        dataset,
        model,
        samples,
        store,
        name=params.name or samples.name,
        per_class=params.per_class,
    )
    current()("report", 1, 1, "done")
    return made


def report_store(url: str, what: str) -> AbstractContextManager[HeldStore]:
    """Open a store as `held_store` does; if it may only be read, reports go to the cache."""
    return held_store(url, what, cache_folder() / "reports" / digest_of(url)[:16])


def parent(store: Store, manifest: Manifest, role: str) -> Manifest:
    """Return the artifact that a manifest names as its input of a role.

    Raises ValueError if it names none, StoreError if the store lacks it.
    """
    for ref in manifest.inputs:
        if ref.role == role:
            return store.resolve(cast("Kind", ref.kind), f"{ref.name}@{ref.digest}")
    raise ValueError(f"{manifest.kind} {manifest.name} names no {role} among its inputs")


def model_and_dataset(store: Store, model_ref: str, dataset_ref: str) -> tuple[Manifest, Manifest]:
    """Return a model, and a dataset: by default the one the model learned from."""
    model = store.resolve("models", model_ref)
    if dataset_ref:
        return model, store.resolve("datasets", dataset_ref)
    return model, parent(store, model, "dataset")
