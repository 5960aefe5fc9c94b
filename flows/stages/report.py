"""The report stage: one page of pictures and numbers for a samples dataset."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from flows.options import AUDIT, DEFAULT_STORE, Positive, StoreUrl, grouped
from flows.stages.audit import AuditParams, draw_audited
from flows.stages.base import Address, Inputs, Result, Stage, parent, where
from flows.terminal import current
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import Manifest


@grouped({AUDIT: ("audit", "judge", "gate")})
@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """Draw real above generated drawings, the curve, bits/dim and lineage into report.html.

    Parameters
    ----------
    samples
        Name, name@digest, or the first characters of a digest.
    per_class
        Number of drawings in a row.
    name
        Name in the store. By default that of the samples.
    audit
        Look for duplicates and copies of training drawings, and compare statistics by class.
    judge
        Classifier in the store that the audit uses.
    first
        Samples of the model that training started from, for a section of their own: name,
        name@digest, or the first characters of a digest.
    gate
        TOML file of limits on the audit's numbers; if one is exceeded, the command fails.
    """

    samples: Annotated[str, Parameter(required=True)] = "doodles-tiny"
    per_class: Positive = 8
    name: str = ""
    store: StoreUrl = DEFAULT_STORE
    audit: Annotated[bool, Parameter(negative=())] = False
    judge: Annotated[str, Parameter(name="--classifier")] = ""
    first: str = ""
    gate: str = ""


def _inputs(params: ReportParams, store: Store) -> Inputs:
    samples = store.resolve("samples", params.samples)
    model = parent(store, samples, "model")
    inputs = {"samples": samples, "model": model, "dataset": parent(store, model, "dataset")}
    return inputs | ({"first": store.resolve("samples", params.first)} if params.first else {})


def _address(params: ReportParams, inputs: Inputs) -> Address:
    from model.report.page import report_digest, report_inputs, report_spec

    shown = report_inputs(**inputs)
    digest = report_digest(report_spec(per_class=params.per_class), shown)
    return "reports", params.name or inputs["samples"].name, digest


def _work(params: ReportParams, inputs: Inputs, store: HeldStore) -> Manifest:
    from model.report.page import make_report

    samples = inputs["samples"]
    if params.audit or params.judge or params.gate:
        audited = AuditParams(
            ref=params.samples, name=params.name, judge=params.judge, gate=params.gate
        )
        return draw_audited(
            audited, samples, store, per_class=params.per_class, first=inputs.get("first")
        )
    current()("report", 0, 1, "drawing")
    made = make_report(
        inputs["dataset"],
        inputs["model"],
        samples,
        store,
        name=params.name or samples.name,
        per_class=params.per_class,
        first=inputs.get("first"),
    )
    current()("report", 1, 1, "done")
    return made


def _result(_params: ReportParams, made: Manifest, store: HeldStore) -> Result:
    place = where(store.home(made), made)
    return {"digest": made.digest, "report": f"{place}/{made.summary['page']}"}


STAGE = Stage(
    name="report",
    title="Show real above generated drawings in one page.",
    params=ReportParams,
    inputs=_inputs,
    address=_address,
    work=_work,
    result=_result,
    store="read",
    place="report",
)
