"""The audit stage: find duplicates and copies, check the gate, render the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import AUDIT, DEFAULT_STORE, grouped
from flows.stages.base import parent
from flows.terminal import current
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import Manifest


@grouped({AUDIT: ("filters", "gate", "judge", "with_audit")})
@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Whether and how samples are audited.

    Parameters
    ----------
    filters
        TOML file of rules for drawings; those that break one are left out.
    gate
        TOML file of limits on the audit's numbers; if one is exceeded, nothing is published.
    judge
        Classifier in the store that the audit uses.
    with_audit
        Audit samples before they are exported.
    """

    filters: str = ""
    gate: str = ""
    judge: Annotated[str, Parameter(name="--classifier")] = ""
    with_audit: Annotated[bool, Parameter(name="--audit")] = True


@dataclass(frozen=True, kw_only=True)
class AuditParams(AuditOptions):
    """Audit drawings of the store.

    ref    name, name@digest or digest; "samples/NAME" or "datasets/NAME" if both have it
    name   of what is made; empty: that of the drawings
    """

    store: str = DEFAULT_STORE
    ref: str
    name: str = ""


def audit_for_export(params: AuditParams, dataset: Manifest, store: Store) -> Manifest | None:
    """Return the audit of samples, None for a dataset or if none is wanted.

    Raises ValueError if filters or a gate are given for an artifact that cannot be audited.
    """
    needed = bool(params.filters or params.gate)
    if dataset.kind != "samples":
        if needed:
            raise ValueError("filters and gates are for samples: a dataset is filtered by `build`")
        return None
    if not params.with_audit and not needed:
        return None
    from model.audit.run import AuditSpec, audit_samples

    source = parent(store, parent(store, dataset, "model"), "dataset")
    judge = store.resolve("models", params.judge) if params.judge else None
    return audit_samples(
        dataset,
        source,
        store,
        name=f"{dataset.name[:57].rstrip('-')}-audit",
        spec=AuditSpec(filters=filters_of(params.filters)),
        judge=judge,
        progress=current(),
    )


def check_audit(params: AuditParams, audit: Manifest, store: Store) -> list[dict[str, Any]]:
    """Return the gate's checks; raise GateError if one failed."""
    from model.audit.gate import require_passed

    checks = gate_checks(params, audit, store)
    require_passed(checks)
    return [check.to_json() for check in checks]


def gate_checks(params: AuditParams, audit: Manifest, store: Store):
    """Return the gate's checks, passed or failed."""
    from model.audit.gate import check_gate
    from model.audit.run import read_audit

    if not params.gate:
        return []
    return check_gate(limits_of(params.gate), read_audit(audit, store))


def filters_of(path: str):
    """Return the rules in a file, none without a file."""
    from model.audit.filters import Filters, read_filters

    return read_filters(Path(path)) if path else Filters()


def limits_of(path: str):
    """Return the gate in a file, one that lets all through without a file."""
    from model.audit.gate import read_gate

    return read_gate(Path(path)) if path else ()


def draw_audited(
    params: AuditParams,
    samples: Manifest,
    store: HeldStore,
    *,
    per_class: int = 8,
    first: Manifest | None = None,
) -> Manifest:
    """Audit samples and draw the report with what was found.

    first: as in `make_report`. Raises GateError if a limit failed; the page is made before, and
    shows the failed numbers.
    """
    from model.audit.gate import require_passed

    found = audit_for_export(params, samples, store)
    if found is None:
        raise ValueError(f"{params.ref} is not a samples dataset: there is nothing to audit")
    checks = gate_checks(params, found, store)
    shown = [check.to_json() for check in checks]
    name = params.name or samples.name
    report = draw_report_of(
        samples, found, shown, store, name=name, per_class=per_class, first=first
    )
    home = store.home(report)
    page = f"{home.local_path(report.prefix) or report.prefix}/{report.summary['page']}"
    require_passed(checks, consequence=f"as {page} shows")
    return report


@doing("report", "drawing")
def draw_report_of(
    samples: Manifest,
    audit: Manifest,
    checks: list[dict[str, Any]],
    store: Store,
    *,
    name: str,
    per_class: int = 8,
    first: Manifest | None = None,
) -> Manifest:
    """Draw the report of audited samples."""
    from model.report.page import make_report

    model = parent(store, samples, "model")
    dataset = parent(store, model, "dataset")
    return make_report(
        dataset,
        model,
        samples,
        store,
        name=name,
        per_class=per_class,
        audit=audit,
        first=first,
        checks=checks,
    )
