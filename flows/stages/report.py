"""One page of pictures and numbers for a samples dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import DEFAULT_STORE, Positive, StoreUrl
from flows.stages.audit import draw_audited
from flows.stages.base import parent, report_store, where
from flows.stages.export import ExportParams
from flows.terminal import current
from pipelines.store.artifacts import Store, existing_store
from pipelines.store.held import working_store
from pipelines.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class ReportParams:
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

    samples: Annotated[str, Parameter(required=True)] = "doodles-tiny"
    per_class: Positive = 8
    name: str = ""
    store: StoreUrl = DEFAULT_STORE


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


def plan_report(params: ReportParams) -> Mapping[str, Any]:
    """Return the artifacts that the page shows."""
    store = existing_store(params.store)
    samples = store.resolve("samples", params.samples)
    model = parent(store, samples, "model")
    dataset = parent(store, model, "dataset")
    return {"samples": samples.digest, "model": model.digest, "dataset": dataset.digest}


def work_report(params: ReportParams, audited: ExportParams | None) -> Mapping[str, Any]:
    """Draw the page; return its digest and its path."""
    with report_store(params.store, "report") as store:
        if audited:
            manifest = draw_audited(audited, store, per_class=params.per_class)
        else:
            manifest = draw_report(params, store)
        place = where(store.home(manifest), manifest)
    return {"digest": manifest.digest, "report": f"{place}/{manifest.summary['page']}"}
