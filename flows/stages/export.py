"""The export stage: audit samples, check the gate, write the files of other formats.

Nothing is published before the gate: a number beyond its limit ends the command with its name.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from flows.options import DEFAULT_STORE, RUNNING, EngineOptions, Listed, StoreUrl
from flows.stages.audit import (
    AuditOptions,
    AuditParams,
    audit_for_export,
    check_audit,
    draw_audited,
    draw_report_of,
    filters_of,
    limits_of,
)
from flows.stages.base import (
    EXPORTABLE,
    Inputs,
    Result,
    Stage,
    argument,
    pinned,
    resolve_any,
    where,
    write_config,
)
from flows.stages.sample import parse_range
from flows.terminal import current
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import Manifest
from pipelines.store.printable import printable


@dataclass(frozen=True, kw_only=True)
class ExportOptions(EngineOptions, AuditOptions):
    """Options of an export, independent of the drawings.

    Parameters
    ----------
    formats
        One or more of hf, tfds, webdataset, numpy_bitmap, idx and png, e.g. "hf,idx".
    splits
        Only these splits, e.g. "train,test". By default all.
    rows_per_file
        Number of drawings in a file of hf, tfds and webdataset. By default what suits the format.
    out
        Directory or URL to write to. By default the store.
    workers
        Number of processes on this machine; ignored with --cluster or if --beam names a runner.
    """

    formats: Annotated[Listed, Parameter(name="--format")] = ("hf",)
    splits: Listed = ()
    rows_per_file: Annotated[int | None, Parameter(name="--rows-per-shard")] = None
    out: str = ""
    workers: Annotated[int, RUNNING] = 1


@dataclass(frozen=True, kw_only=True)
class ExportCommand(ExportOptions):
    """Options of the command.

    Parameters
    ----------
    name
        Name in the store. By default that of the drawings.
    part
        Write only this machine's part of the files, such as 0/4 to 3/4; the same command without
        this option then publishes them.
    shards
        Write only these files, such as 0-99, as one of several machines that share the store; the
        last one publishes.
    """

    name: str = ""
    part: Annotated[str, RUNNING] = ""
    shards: Annotated[str, RUNNING] = ""
    store: StoreUrl = DEFAULT_STORE


@dataclass(frozen=True, kw_only=True)
class ExportParams(ExportCommand, AuditParams):
    """Write a dataset or samples in formats of other tools."""


def export_spec(params: ExportParams):
    """Return the spec that determines the export's bytes."""
    from pipelines.export.spec import ExportSpec

    filters, gate = {}, []
    if params.filters:
        filters = filters_of(params.filters).to_json()
    if params.gate:
        from model.audit.gate import limits_to_json

        gate = limits_to_json(limits_of(params.gate))
    return ExportSpec(
        formats=params.formats,
        splits=params.splits,
        rows_per_file=params.rows_per_file,
        filters=filters,
        gate=tuple(gate),
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
    kept = kept_rows(audit, dataset) if params.filters else None
    if (
        kept
        and store.home(audit) is not store
        and (params.workers > 1 or params.cluster or params.beam_args)
    ):
        raise ValueError(
            f"{store.url} may only be read, so other processes do not find there what the filters "
            "accept: export with --workers 1, or from a store of your own (sketchmill pull)"
        )
    return Extras(inputs=(audit.ref("audit"),), kept=kept, attachments=attachments)


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


def _check(params: ExportParams) -> None:
    from pipelines.engines.flags import check_engine

    check_engine(params.beam_args, params.workers, params.cluster)
    if params.part and params.shards:
        raise ValueError("--part and --shards are two ways to share the work: use one")
    if params.part:
        parse_part(params.part)
    if params.shards:
        parse_range(params.shards)


def _inputs(params: ExportParams, store: Store) -> Inputs:
    return {"drawings": resolve_any(store, params.ref, EXPORTABLE)}


def _plan(params: ExportParams, inputs: Inputs, store: Store) -> Result:
    """Return what exporting would write, without an audit: rows, bytes, files' formats."""
    from pipelines.export.formats.registry import export_format
    from pipelines.export.job import make_job
    from pipelines.export.run import plan_units

    dataset = inputs["drawings"]
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


def _work(params: ExportParams, inputs: Inputs, store: HeldStore) -> Manifest | Result:
    """Audit, check and export; with --part or --shards, these files only."""
    from pipelines.export.run import finish, make_share

    with doing("export", "getting ready"):
        export = _begun(params, inputs["drawings"], store)
    if params.part:
        part, parts = parse_part(params.part)
        files, _ = make_share(export, slice(part, None, parts))
        return {"part": part, "parts": parts, "files": files}
    if params.shards:
        first, last = parse_range(params.shards)
        _, missing = make_share(export, slice(first, last + 1))
        if missing:
            return {"first": first, "last": last, "missing": missing, "export": ""}
        made = finish(export)
        write_config(STAGE.name, params, made, store, pinned(params, inputs))
        return {"first": first, "last": last, "missing": missing, "export": made.digest}
    return finish(export)


def _begun(params: ExportParams, dataset: Manifest, store: HeldStore):
    """Return the export, of drawings that have passed their audit."""
    from pipelines.export.run import ExportOptions, begin

    audit = audit_for_export(params, dataset, store)
    options = ExportOptions(
        out=params.out or None,
        beam_args=params.beam_args,
        workers=params.workers,
        cluster=params.cluster,
        progress=current(),
    )
    return begin(
        dataset,
        store,
        export_spec(params),
        name=params.name or dataset.name,
        options=options,
        extras=_extras(params, dataset, audit, store),
    )


def _result(params: ExportParams, made: Manifest, store: HeldStore) -> Result:
    """Return digest, place and counts."""
    audit = made.input("audit")
    return {
        "export": made.digest,
        "name": made.name,
        "path": printable(params.out) or where(store, made),
        "drawings": made.summary["num_drawings"],
        "files": len(made.files),
        "bytes": sum(entry.bytes for entry in made.files),
        "audit": audit.digest if audit else "",
    }


STAGE = Stage(
    name="export",
    title="Write drawings in the formats of other tools.",
    params=ExportParams,
    check=_check,
    inputs=_inputs,
    plan=_plan,
    work=_work,
    result=_result,
    place="export",
    options=ExportCommand,
    argument=argument(
        "ref",
        str,
        "Samples or a dataset: name, name@digest, or the first characters of a digest; samples/NAME "
        "or datasets/NAME if both have it.",
    ),
)
PART = dataclasses.replace(
    STAGE, name="export-part", title="Write one part of an export's files.", place="export_part"
)
AUDIT = Stage(
    name="audit",
    title="Audit samples, check a gate and show both.",
    params=ExportParams,
    inputs=_inputs,
    work=lambda params, inputs, store: draw_audited(params, inputs["drawings"], store),
    place="audit",
)
