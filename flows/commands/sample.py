"""`sketchmill sample`: new labelled drawings from a model."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.choices import Classes
from flows.options import Common
from flows.params import SampleParams
from flows.session import run_stage

ALL = Common()
ANY = Classes()


def sample(
    *,
    model: str,
    classes: Annotated[Classes, Parameter(name="*")] = ANY,
    per_class: int = 8,
    seed: int = 0,
    temperature: float = 1.0,
    name: str = "",
    processes: int = 0,
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Draw new labelled drawings into a dataset of the standard layout.

    Repeat the command after an interruption: only missing shards are made.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    per_class
        How many drawings of each class.
    seed
        Drawing i of class c under a seed is always the same drawing.
    temperature
        Below 1 the drawings are more alike and cleaner.
    name
        Name in the store; the model's by default.
    processes
        How many at once; 0 is one a core.
    """
    params = SampleParams(
        store=common.store,
        name=name,
        model=model,
        classes=classes.names(default=()),
        per_class=per_class,
        seed=seed,
        temperature=temperature,
        processes=processes,
    )
    run_stage(common, plan=lambda: plan_sample(params), work=lambda: work_sample(params))


def plan_sample(params: SampleParams) -> Mapping[str, Any]:
    """Return the resolved spec and whether the store has the samples."""
    from flows.stages import sample_spec
    from model.sampling.spec import samples_digest
    from pipelines.store import open_store

    params = named(params)
    store = open_store(params.store)
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


def work_sample(params: SampleParams) -> Mapping[str, Any]:
    """Draw and return the samples' digest."""
    from flows.stages import sample as sample_stage

    manifest = sample_stage(named(params))
    drawings = sum(entry.rows or 0 for entry in manifest.files)
    return {"samples": manifest.digest, "name": manifest.name, "drawings": drawings}


def named(params: SampleParams) -> SampleParams:
    """Return the parameters with a name for the samples."""
    from pipelines.store import open_store

    if params.name:
        return params
    model = open_store(params.store).resolve("models", params.model)
    return dataclasses.replace(params, name=model.name)
