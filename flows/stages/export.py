"""Export as steps: find what a ref means, audit samples, check the gate, write the files.

Nothing is published before the gate: a number beyond its limit ends the command with its name.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.options import Listed, Repeated
from flows.stages.audit import (
    AuditOptions,
    AuditParams,
    audit_for_export,
    check_audit,
    draw_report_of,
)
from flows.stages.base import find_exportable, report_store, where
from flows.terminal import current
from pipelines.processes.progress import doing
from pipelines.store.artifacts import existing_store, open_store
from pipelines.store.held import HeldStore, working_store
from pipelines.store.manifest import InputRef, Manifest
from pipelines.store.printable import printable

if TYPE_CHECKING:
    from pipelines.export.run import Export


@dataclass(frozen=True, kw_only=True)
class ExportOptions(AuditOptions):
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
    workers
        Processes on this machine.
    beam_args
        A flag for Beam, passed on untouched, e.g. --beam=--runner=FlinkRunner; repeatable.
    """

    formats: Annotated[Listed, Parameter(name="--format")] = ("hf",)
    splits: Listed = ()
    rows_per_file: int | None = None
    out: str = ""
    workers: int = 1
    beam_args: Annotated[Repeated, Parameter(name="--beam")] = ()


@dataclass(frozen=True, kw_only=True)
class ExportParams(ExportOptions, AuditParams):
    """Write a dataset or samples in formats of other tools."""


def plan_export(params: ExportParams) -> Mapping[str, Any]:
    """Return what exporting would write, without an audit: rows, bytes, files' formats."""
    from pipelines.export.formats.registry import export_format
    from pipelines.export.job import make_job
    from pipelines.export.run import plan_units

    store = existing_store(params.store)
    dataset = find_exportable(store, params.ref)
    job = make_job(dataset, store, export_spec(params), name=params.name or dataset.name)
    rows = {split: job.rows(split) for split in job.splits}
    total = sum(rows.values())
    return {
        "of": f"{dataset.kind}/{dataset.name}@{dataset.digest}",
        "spec": job.spec.to_json(),
        "drawings": rows,
        "files": len(plan_units(job)),
        "bytes": {name: total * export_format(name).bytes_per_drawing for name in job.spec.formats},
        "out": printable(params.out or f"{params.store}/exports/{job.name}"),
    }


def export(params: ExportParams) -> Manifest:
    """Audit, check, export."""
    from pipelines.export.run import finish

    with _begun(params) as begun:
        return finish(begun)


@contextlib.contextmanager
def _begun(params: ExportParams) -> Iterator["Export"]:
    """Audit, check, and yield the export; its store is written to unless the files go elsewhere."""
    from pipelines.export.run import begin

    opened = report_store if params.out else working_store
    with opened(params.store, "export") as store:
        with doing("export", "getting ready"):
            dataset = find_exportable(store, params.ref)
            audit = audit_for_export(params, dataset, store)
            begun = begin(
                dataset,
                store,
                export_spec(params),
                name=params.name or dataset.name,
                options=_options(params),
                extras=_extras(params, dataset, audit, store),
            )
        yield begun


def work_export(params: ExportParams) -> Mapping[str, Any]:
    """Export and return digest, place and counts."""
    made = export(params)
    return {
        "export": made.digest,
        "name": made.name,
        "path": printable(params.out) or where(open_store(params.store), made),
        "drawings": made.summary["num_drawings"],
        "files": len(made.files),
        "bytes": sum(entry.bytes for entry in made.files),
        "audit": next((ref.digest for ref in made.inputs if ref.role == "audit"), ""),
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


def work_export_part(params: ExportParams, part: int, parts: int) -> Mapping[str, Any]:
    """Make one machine's part of an export's files; publish nothing."""
    from pipelines.export.run import make_share

    with _begun(params) as begun:
        files, _ = make_share(begun, slice(part, None, parts))
    return {"part": part, "parts": parts, "files": files}


def work_export_range(params: ExportParams, first: int, last: int) -> Mapping[str, Any]:
    """Make some of an export's files; publish if they were the last that were missing."""
    from pipelines.export.run import finish, make_share

    with _begun(params) as begun:
        _, missing = make_share(begun, slice(first, last + 1))
        made = "" if missing else finish(begun).digest
    return {"first": first, "last": last, "missing": missing, "export": made}


@doing("report", "drawing")
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
    report = draw_report_of(dataset, audit, checks, store, name=dataset.name)
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


@dataclass(frozen=True, kw_only=True)
class ExportPartParams:
    """One of several parts of an export's files; none published."""

    export: ExportParams
    part: int = 0
    parts: int = 1


def parse_part(text: str) -> tuple[int, int]:
    """Read "number/parts"; raise ValueError for anything else.

    >>> parse_part("0/4")
    (0, 4)
    """
    number, _, parts = text.partition("/")
    try:
        return int(number), int(parts)
    except ValueError as error:
        raise ValueError(f"--part {text}: expected number/parts, such as 0/4") from error
