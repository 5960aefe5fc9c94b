"""The reproduce stage: regenerate one drawing and compare every byte."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from flows.options import DEFAULT_STORE, HIDDEN, StoreUrl
from flows.stages.base import Inputs, Result, Stage, argument
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore


@dataclass(frozen=True, kw_only=True)
class ReproduceParams:
    """Draw one row of samples again from its recipe and compare every byte.

    Parameters
    ----------
    row
        Index of the drawing in the samples, from 0.
    """

    ref: Annotated[str, HIDDEN] = ""
    row: Annotated[int, Parameter(required=True)] = 0
    store: StoreUrl = DEFAULT_STORE


def _inputs(params: ReproduceParams, store: Store) -> Inputs:
    return {"samples": store.resolve("samples", params.ref.removeprefix("samples/"))}


def _work(params: ReproduceParams, inputs: Inputs, store: HeldStore) -> Result:
    """Draw one row again; raise RuntimeError if a pixel differs."""
    from model.audit.reproduce import reproduce

    samples, row = inputs["samples"], params.row
    found = reproduce(samples, store, row=row)
    recipe = found.recipe
    if not found.is_equal:
        pixels = int((recipe.image != found.image).sum())
        raise RuntimeError(
            f"row {row} of {samples.name} differs in {pixels} pixels: another processor or another "
            "version of torch may round a sum otherwise"
        )
    return {
        "row": row,
        "is_equal": True,
        "class_name": recipe.class_name,
        "seed": recipe.seed,
        "sample_index": recipe.sample_index,
        "model": recipe.model,
        "bytes": recipe.image.size,
    }


STAGE = Stage(
    name="reproduce",
    params=ReproduceParams,
    inputs=_inputs,
    plan=lambda params, _inputs, _store: {"samples": params.ref, "row": params.row},
    work=_work,
    store="read",
    argument=argument(
        "ref", str, "Samples: name, name@digest, or the first characters of a digest."
    ),
)
