"""Export as steps: find what a ref means, audit samples, check the gate, write the files.

Nothing is published before the gate: a number beyond its limit ends the command with its name.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import DEFAULT_STORE, Listed, Repeated
from flows.stages.base import parent, report_store
from flows.stages.lookup import where
from flows.terminal import current
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store, StoreError, existing_store
from pipelines.store.held import HeldStore, working_store
from pipelines.store.manifest import InputRef, Kind, Manifest
from pipelines.store.objects import AbsentError
from pipelines.store.printable import printable

EXPORTABLE: tuple[Kind, ...] = ("samples", "datasets")
# Measured on drawings of Quick, Draw!; to tell the size before the work.
BYTES_PER_DRAWING = {
    "hf": 298,
    "tfds": 918,
    "webdataset": 2_560,
    "numpy_bitmap": 784,
    "idx": 785,
    "png": 880,
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How drawings are written in formats of other tools, whatever drawings.

    Parameters
    ----------
    formats
        One or more of hf, tfds, webdataset, numpy_bitmap, idx, png: "hf,idx".
    splits
        Only these: "train,test".
    rows_per_file
        Drawings in a file of hf, tfds and webdataset; what suits the format by default.
    out
        Directory or URL to fill; the artifact store by default.
    filters
        TOML file of rules that generated drawings must keep to; others are left out.
    gate
        TOML file of limits on the audit's numbers; beyond one, nothing is published.
    judge
        A classifier of the store that the audit asks.
    with_audit
        Audit samples before they are exported.
    workers
        Processes on this machine.
    beam_args
        A flag for Beam, passed on untouched, e.g. --beam=--runner=FlinkRunner; repeatable.
    """

    formats: Annotated[Listed, Parameter(name="--format")] = ("hf",)
    splits: Listed = ()
    rows_per_file: int | None = None
    out: str = ""
    filters: str = ""
    gate: str = ""
    judge: str = ""
    with_audit: Annotated[bool, Parameter(name="--audit")] = True
    workers: int = 1
    beam_args: Annotated[Repeated, Parameter(name="--beam")] = ()


@dataclass(frozen=True, kw_only=True)
class ExportParams(ExportOptions):
    """Write a dataset or samples in formats of other tools.

    ref    name, name@digest or digest; "samples/NAME" or "datasets/NAME" if both have it
    name   of the export; empty: that of the drawings
    """

    store: str = DEFAULT_STORE
    ref: str
    name: str = ""


def find_exportable(store: Store, ref: str) -> Manifest:
    """Return the dataset or samples that a person means.

    Raises StoreError if there is none, or one of each kind.
    """
    kind, _, rest = ref.partition("/")
    if rest:
        if kind not in EXPORTABLE:
            raise StoreError(f"{ref!r}: only {' and '.join(EXPORTABLE)} can be exported")
        return store.resolve(kind, rest)
    found, errors = [], []
    for candidate in EXPORTABLE:
        try:
            found.append(store.resolve(candidate, ref))
        except AbsentError as error:
            errors.append(str(error))
    if len(found) > 1:
        raise StoreError(f"{ref!r} means both: write samples/{ref} or datasets/{ref}")
    if not found:
        raise StoreError("; ".join(errors))
    return found[0]


def plan_export(params: ExportParams) -> Mapping[str, Any]:
    """Return what exporting would write, without an audit: rows, bytes, files' formats."""
    from pipelines.export.job import make_job
    from pipelines.export.ranges import num_files

    store = existing_store(params.store)
    dataset = find_exportable(store, params.ref)
    job = make_job(dataset, store, export_spec(params), name=params.name or dataset.name)
    rows = {split: job.rows(split) for split in job.splits}
    total = sum(rows.values())
    return {
        "of": f"{dataset.kind}/{dataset.name}@{dataset.digest}",
        "spec": job.spec.to_json(),
        "drawings": rows,
        "files": num_files(job),
        "bytes": {name: total * BYTES_PER_DRAWING[name] for name in job.spec.formats},
        "out": printable(params.out or f"{params.store}/exports/{job.name}"),
    }


def work_export(params: ExportParams) -> Mapping[str, Any]:
    """Audit, check, export; return the export's digest, place and counts."""
    with _store_for(params) as store:
        dataset = find_exportable(store, params.ref)
        return _work_export(params, dataset, store)


def _store_for(params: ExportParams) -> AbstractContextManager[HeldStore]:
    """Return the store to export from, which is written to unless the files go elsewhere."""
    if params.out:
        return report_store(params.store, "export")
    return working_store(params.store, "export")


@doing("export", "getting ready")
def _work_export(params: ExportParams, dataset: Manifest, store: HeldStore) -> Mapping[str, Any]:
    from pipelines.export.run import export_dataset

    name = params.name or dataset.name
    audit = audit_for_export(params, dataset, store)
    extras = _extras(params, dataset, audit, store)
    export = export_dataset(
        dataset, store, export_spec(params), name=name, options=_options(params), extras=extras
    )
    place = printable(params.out) or where(store, export)
    return {
        "export": export.digest,
        "name": export.name,
        "path": place,
        "drawings": export.summary["num_drawings"],
        "files": len(export.files),
        "bytes": sum(entry.bytes for entry in export.files),
        "audit": audit.digest if audit else "",
    }


def export_spec(params: ExportParams):
    """Return what decides the export's bytes."""
    from pipelines.export.spec import ExportSpec

    filters, gate = {}, []
    if params.filters:
        from model.audit.filters import read_filters

        filters = read_filters(Path(params.filters)).to_json()
    if params.gate:
        from model.audit.gate import limits_to_json, read_gate

        gate = limits_to_json(read_gate(Path(params.gate)))
    return ExportSpec(
        formats=params.formats,
        splits=params.splits,
        rows_per_file=params.rows_per_file,
        filters=filters,
        gate=tuple(gate),
    )


def audit_for_export(params: ExportParams, dataset: Manifest, store: Store) -> Manifest | None:
    """Return the audit of samples, None for a dataset or if none is wanted.

    Raises ValueError if filters or a gate are asked of something that cannot be audited.
    """
    needed = bool(params.filters or params.gate)
    if dataset.kind != "samples":
        if needed:
            raise ValueError("filters and gates are for samples: a dataset is filtered by `build`")
        return None
    if not params.with_audit and not needed:
        return None
    from model.audit.filters import Filters, read_filters
    from model.audit.run import AuditSpec, audit_samples

    filters = read_filters(Path(params.filters)) if params.filters else Filters()
    source = parent(store, parent(store, dataset, "model"), "dataset")
    judge = store.resolve("models", params.judge) if params.judge else None
    return audit_samples(
        dataset,
        source,
        store,
        name=f"{dataset.name[:57].rstrip('-')}-audit",
        spec=AuditSpec(filters=filters),
        judge=judge,
        progress=current(),
    )


def check_audit(params: ExportParams, audit: Manifest, store: Store) -> list[dict[str, Any]]:
    """Return the gate's checks; raise GateError if one failed."""
    from model.audit.gate import require_passed

    checks = gate_checks(params, audit, store)
    require_passed(checks)
    return [check.to_json() for check in checks]


def gate_checks(params: ExportParams, audit: Manifest, store: Store):
    """Return the gate's checks, passed or failed."""
    from model.audit.gate import check_gate, read_gate
    from model.audit.run import read_audit

    if not params.gate:
        return []
    return check_gate(read_gate(Path(params.gate)), read_audit(audit, store))


def work_export_part(params: ExportParams, part: int, parts: int) -> Mapping[str, Any]:
    """Make one machine's part of an export's files; publish nothing."""
    from pipelines.export.ranges import export_part

    with _store_for(params) as store:
        dataset = find_exportable(store, params.ref)
        audit = audit_for_export(params, dataset, store)
        made = export_part(
            dataset,
            store,
            export_spec(params),
            name=params.name or dataset.name,
            part=part,
            parts=parts,
            options=_options(params),
            extras=_extras(params, dataset, audit, store),
        )
    return {"part": part, "parts": parts, "files": made}


def work_export_range(params: ExportParams, first: int, last: int) -> Mapping[str, Any]:
    """Make some of an export's files; publish if they were the last that were missing."""
    from pipelines.export.ranges import export_range

    with _store_for(params) as store:
        dataset = find_exportable(store, params.ref)
        audit = audit_for_export(params, dataset, store)
        missing, export = export_range(
            dataset,
            store,
            export_spec(params),
            name=params.name or dataset.name,
            first=first,
            last=last,
            options=_options(params),
            extras=_extras(params, dataset, audit, store),
        )
    return {
        "first": first,
        "last": last,
        "missing": missing,
        "export": export.digest if export else "",
    }


def work_audited_report(params: ExportParams, *, per_class: int) -> Manifest:
    """Do what `draw_audited_report` does in a store that is written to."""
    with working_store(params.store, "report") as store:
        return draw_audited_report(params, store, per_class=per_class)


def draw_audited_report(params: ExportParams, store: HeldStore, *, per_class: int) -> Manifest:
    """Audit samples and draw the report with what was found.

    Raises GateError if a limit failed; the page is made before, and shows the failed numbers.
    """
    from model.audit.gate import require_passed

    samples = find_exportable(store, params.ref)
    audit = audit_for_export(params, samples, store)
    if audit is None:
        raise ValueError(f"{params.ref} is no samples dataset: nothing to audit")
    checks = gate_checks(params, audit, store)
    shown = [check.to_json() for check in checks]
    name = params.name or samples.name
    report = _audited_report(samples, audit, shown, store, name=name, per_class=per_class)
    home = store.home(report)
    page = f"{home.local_path(report.prefix) or report.prefix}/{report.summary['page']}"
    require_passed(checks, consequence=f"as {page} shows")
    return report


@doing("report", "drawing")
def _audited_report(
    samples: Manifest,
    audit: Manifest,
    checks: list[dict[str, Any]],
    store: Store,
    *,
    name: str,
    per_class: int = 8,
) -> Manifest:
    from model.report.page import make_report

    model = parent(store, samples, "model")
    dataset = parent(store, model, "dataset")
    return make_report(
        dataset, model, samples, store, name=name, per_class=per_class, audit=audit, checks=checks
    )


def _options(params: ExportParams):
    from pipelines.export.run import ExportOptions

    return ExportOptions(
        out=params.out or None,
        beam_args=params.beam_args,
        workers=params.workers,
        progress=current(),
    )


def _extras(params: ExportParams, dataset: Manifest, audit: Manifest | None, store: HeldStore):
    from pipelines.export.job import NO_EXTRAS, Extras

    if audit is None:
        return NO_EXTRAS
    from model.audit.run import AUDIT_NAME, kept_rows
    from model.report.page import REPORT_NAME

    checks = check_audit(params, audit, store)
    report = _audited_report(dataset, audit, checks, store, name=dataset.name)
    attachments = {
        AUDIT_NAME: store.read(audit, AUDIT_NAME),
        "gate.json": json.dumps(checks, indent=1).encode() + b"\n",
        REPORT_NAME: store.read(report, REPORT_NAME),
    }
    ref = InputRef(role="audit", kind=audit.kind, name=audit.name, digest=audit.digest)
    kept = kept_rows(audit, dataset) if params.filters else None
    if kept and store.home(audit) is not store and (params.workers > 1 or params.beam_args):
        raise ValueError(
            f"{store.url} may only be read, so other processes do not find there what the filters "
            "accept: export with --workers 1, or from a store of your own (sketchmill pull)"
        )
    return Extras(inputs=(ref,), kept=kept, attachments=attachments)
