"""`sketchmill sample`: new labelled drawings from a model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.options import Common, ModelClasses, NotNegative
from flows.stages.params import SampleParams
from flows.terminal import run_stage

ALL = Common()
ANY = ModelClasses()


def sample(
    *,
    model: str,
    classes: Annotated[ModelClasses, Parameter(name="*")] = ANY,
    per_class: int = 8,
    counts: Path | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    guidance: float | None = None,
    batch: int = 64,
    dtype: Literal["float32", "bfloat16", "float64"] = "float32",
    rows_per_shard: int = 8_192,
    shards: str = "",
    name: str = "",
    processes: NotNegative = 0,
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Draw new labelled drawings into a dataset of the standard layout.

    Repeat the command after an interruption: only missing shards are made. Several GPUs share
    the batches of this command; several machines take --shards, or torchrun's ranks on
    `python -m model.sampling`.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    per_class
        How many drawings of each class.
    counts
        CSV file of class,count in place of --classes and --per-class; a spreadsheet's semicolons
        and tabs will do.
    seed
        Drawing i of class c has noise of its own under a seed: the same drawing from any number of
        processes, but for a pixel that another --batch or kind of CPU rounds to another level.
    temperature
        Below 1 the drawings are more alike and cleaner.
    guidance
        How much to prefer what tells a class from the others; 0 is the class's own distribution.
        By default 2.5 for models that learned for it (condition.dropout_p), 0 for others.
    batch
        Drawings computed together; it is part of what decides their last digits.
    dtype
        Of the arithmetic; bfloat16 is fast on GPUs and on CPUs that have it.
    rows_per_shard
        Drawings in a Parquet file, the unit that a restart repeats.
    shards
        Draw these shards only, such as 0-99, as one of several machines that share the store;
        whoever finds none missing publishes.
    name
        Name in the store; the model's by default.
    processes
        How many at once; 0 is one a GPU, each on its own, or without GPUs one a core.
    """
    params = SampleParams(
        store=common.store,
        name=name,
        model=model,
        classes=classes.written(()),  # the model knows its classes
        per_class=per_class,
        counts=str(counts or ""),
        seed=seed,
        temperature=temperature,
        guidance=guidance,
        batch_size=batch,
        dtype=dtype,
        rows_per_shard=rows_per_shard,
        processes=processes,
    )
    chosen = parse_range(shards) if shards else None
    run_stage(common, plan=lambda: plan_sample(params), work=lambda: work_sample(params, chosen))


def parse_range(text: str) -> tuple[int, int]:
    """Read "first-last" or one number; raise ValueError for anything else.

    >>> parse_range("0-99"), parse_range("7")
    ((0, 99), (7, 7))
    """
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise ValueError(f"--shards {text}: expected first-last, such as 0-99") from error


def plan_sample(params: SampleParams) -> Mapping[str, Any]:
    """Return the resolved spec and whether the store has the samples."""
    from flows.stages.base import sample_spec
    from model.sampling.spec import samples_digest
    from pipelines.store.artifacts import existing_store

    params = named(params)
    store = existing_store(params.store)
    model = store.resolve("models", params.model)
    spec = sample_spec(params, model)
    digest = samples_digest(spec, model)
    return {
        "spec": dataclasses.asdict(spec),
        "model": model.digest,
        "samples": digest,
        "name": params.name,
        "is_drawn": store.find("samples", params.name, digest) is not None,
    }


def work_sample(params: SampleParams, shards: tuple[int, int] | None = None) -> Mapping[str, Any]:
    """Draw all shards or some, and return the samples' digest."""
    import torch

    from flows.stages.base import sample as sample_stage
    from flows.stages.base import sample_range
    from flows.terminal import warn
    from model.network.precision import default_device, emulation_warning

    warn(emulation_warning(getattr(torch, params.dtype), default_device()))
    if shards:
        return sample_range(named(params), *shards)
    manifest = sample_stage(named(params))
    drawings = sum(entry.rows or 0 for entry in manifest.files)
    return {"samples": manifest.digest, "name": manifest.name, "drawings": drawings}


def named(params: SampleParams) -> SampleParams:
    """Return the parameters with a name for the samples."""
    from pipelines.store.artifacts import existing_store

    if params.name:
        return params
    model = existing_store(params.store).resolve("models", params.model)
    return dataclasses.replace(params, name=model.name)
