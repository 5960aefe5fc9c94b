"""`sketchmill sample`: new labelled drawings from a model."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import ModelClasses, Output
from flows.stages.params import SampleParams
from flows.terminal import run_stage


def sample(
    *,
    params: Annotated[SampleParams, Parameter(name="*")] = SampleParams(),
    classes: ModelClasses = ModelClasses(),
    shards: str = "",
    output: Output = Output(),
) -> None:
    """Draw new labelled drawings into a dataset of the standard layout.

    Repeat the command after an interruption: only missing shards are made. Several GPUs share
    the batches of this command; several machines take --shards, or torchrun's ranks on
    `python -m model.sampling`.

    Parameters
    ----------
    shards
        Draw these shards only, such as 0-99, as one of several machines that share the store;
        whoever finds none missing publishes.
    """
    given = dataclasses.replace(params, classes=classes.written(()))  # the model knows its own
    chosen = parse_range(shards) if shards else None
    run_stage(output, plan=lambda: plan_sample(given), work=lambda: work_sample(given, chosen))


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

    store = existing_store(params.store)
    model = store.resolve("models", params.model)
    name = params.name or model.name
    spec = sample_spec(params, model)
    digest = samples_digest(spec, model)
    return {
        "spec": dataclasses.asdict(spec),
        "model": model.digest,
        "samples": digest,
        "name": name,
        "is_drawn": store.find("samples", name, digest) is not None,
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
        return sample_range(params, *shards)
    manifest = sample_stage(params)
    drawings = sum(entry.rows or 0 for entry in manifest.files)
    return {"samples": manifest.digest, "name": manifest.name, "drawings": drawings}
