"""`sketchmill report`: one page of pictures and numbers for a samples dataset."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common, Positive
from flows.stages.export import ExportParams
from flows.stages.params import ReportParams
from flows.terminal import run_stage

ALL = Common()


def report(
    *,
    samples: str,
    per_class: Positive = 8,
    name: str = "",
    audit: Annotated[bool, Parameter(negative=())] = False,
    judge: str = "",
    gate: str = "",
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
    audit
        Look for duplicates and copies of training drawings, and compare statistics by class.
    judge
        A classifier of the store (sketchmill judge) that the audit asks too.
    gate
        TOML file of limits on the audit's numbers; beyond one the command fails.
    """
    params = ReportParams(store=common.store, name=name, samples=samples, per_class=per_class)
    audited = None
    if audit or judge or gate:
        audited = ExportParams(
            store=common.store, ref=f"samples/{samples}", name=name, judge=judge, gate=gate
        )
    run_stage(common, plan=lambda: _plan(params), work=lambda: _work(params, audited))


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
