"""`sketchmill report`: one page of pictures and numbers for a samples dataset."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Output
from flows.stages.export import ExportParams
from flows.stages.params import ReportParams
from flows.terminal import run_stage


def report(
    *,
    params: Annotated[ReportParams, Parameter(name="*")] = ReportParams(),
    audit: Annotated[bool, Parameter(negative=())] = False,
    judge: str = "",
    gate: str = "",
    output: Output = Output(),
) -> None:
    """Draw real above generated drawings, the curve, bits/dim and lineage into report.html.

    Parameters
    ----------
    audit
        Look for duplicates and copies of training drawings, and compare statistics by class.
    judge
        A classifier of the store (sketchmill judge) that the audit asks too.
    gate
        TOML file of limits on the audit's numbers; beyond one the command fails.
    """
    audited = None
    if audit or judge or gate:
        ref = f"samples/{params.samples}"
        audited = ExportParams(
            store=params.store, ref=ref, name=params.name, judge=judge, gate=gate
        )
    run_stage(output, plan=lambda: _plan(params), work=lambda: _work(params, audited))


def _plan(params: ReportParams) -> Mapping[str, Any]:
    from flows.stages.base import parent
    from pipelines.store.artifacts import existing_store

    store = existing_store(params.store)
    samples = store.resolve("samples", params.samples)
    model = parent(store, samples, "model")
    dataset = parent(store, model, "dataset")
    return {"samples": samples.digest, "model": model.digest, "dataset": dataset.digest}


def _work(params: ReportParams, audited: ExportParams | None) -> Mapping[str, Any]:
    from flows.stages.base import draw_report, report_store
    from flows.stages.export import draw_audited_report
    from flows.stages.lookup import where

    with report_store(params.store, "report") as store:
        if audited:
            manifest = draw_audited_report(audited, store, per_class=params.per_class)
        else:
            manifest = draw_report(params, store)
        place = where(store.home(manifest), manifest)
    return {"digest": manifest.digest, "report": f"{place}/{manifest.summary['page']}"}
