"""`sketchmill report`: one page of pictures and numbers for a samples dataset."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common
from flows.params import ReportParams
from flows.session import run_stage

ALL = Common()


def report(
    *,
    samples: str,
    per_class: int = 8,
    name: str = "",
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Draw real above generated drawings, the curve, bits/dim and lineage into report.html.

    Parameters
    ----------
    samples
        Name, name@digest, or the first characters of a digest.
    per_class
        Drawings in a row.
    name
        Name in the store; that of the samples by default.
    """
    params = ReportParams(store=common.store, name=name, samples=samples, per_class=per_class)
    run_stage(common, plan=lambda: _plan(params), work=lambda: _work(params))


def _plan(params: ReportParams) -> Mapping[str, Any]:
    from flows.stages import parent
    from pipelines.store import open_store

    store = open_store(params.store)
    samples = store.resolve("samples", params.samples)
    model = parent(store, samples, "model")
    dataset = parent(store, model, "dataset")
    return {"samples": samples.digest, "model": model.digest, "dataset": dataset.digest}


def _work(params: ReportParams) -> Mapping[str, Any]:
    import dataclasses

    from flows.lookup import where
    from flows.stages import report as report_stage
    from pipelines.store import open_store

    store = open_store(params.store)
    name = params.name or store.resolve("samples", params.samples).name
    manifest = report_stage(dataclasses.replace(params, name=name))
    return {
        "digest": manifest.digest,
        "report": f"{where(store, manifest)}/{manifest.summary['page']}",
    }
