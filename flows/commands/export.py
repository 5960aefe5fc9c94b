"""`sketchmill export`: a dataset or samples in the formats of other tools."""

import functools
from typing import Annotated

from cyclopts import Parameter

from flows.commands.sample import parse_range
from flows.options import Common, listed
from flows.stages.export import (
    ExportParams,
    plan_export,
    work_export,
    work_export_part,
    work_export_range,
)
from flows.terminal import run_stage

ALL = Common()


def export(
    ref: str,
    /,
    *,
    format_: Annotated[str, Parameter(name="--format")] = "hf",
    out: str = "",
    name: str = "",
    splits: str = "",
    rows_per_file: int | None = None,
    filters: str = "",
    gate: str = "",
    judge: str = "",
    audit: bool = True,
    part: str = "",
    shards: str = "",
    workers: int = 1,
    beam: Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True, negative=())] = (),
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Write drawings as hf, tfds, webdataset, numpy_bitmap, idx or png, with their provenance.

    Parameters
    ----------
    ref
        Name, name@digest or digest; samples/NAME or datasets/NAME if both have it.
    format_
        One or more: "hf,idx".
    out
        Directory or URL to fill; the artifact store by default.
    name
        Name of the export; that of the drawings by default.
    splits
        Only these: "train,test".
    rows_per_file
        Drawings in a file of hf, tfds and webdataset; what suits the format by default.
    filters
        TOML file of rules that generated drawings must keep to; others are left out.
    gate
        TOML file of limits on the audit's numbers; beyond one, nothing is published.
    judge
        A classifier of the store that the audit asks.
    audit
        Audit samples before they are exported.
    part
        Make this machine's part of the files only, such as 0/4 to 3/4, and publish nothing; the
        same command without it then joins and publishes.
    shards
        Make these files only, such as 0-99, as one of several machines that share the store;
        whoever finds none missing joins and publishes.
    workers
        Processes on this machine.
    beam
        A flag for Beam, passed on untouched, e.g. --beam=--runner=FlinkRunner; repeatable.
    """
    params = ExportParams(
        store=common.store,
        ref=ref,
        name=name,
        formats=listed(format_),
        splits=listed(splits),
        rows_per_file=rows_per_file,
        out=out,
        filters=filters,
        gate=gate,
        judge=judge,
        with_audit=audit,
        workers=workers,
        beam_args=beam,
    )
    if part and shards:
        raise ValueError("--part and --shards are two ways to share the work: use one")
    if shards:
        work = functools.partial(work_export_range, params, *parse_range(shards))
    elif part:
        number, parts = parse_part(part)
        work = functools.partial(work_export_part, params, number, parts)
    else:
        work = functools.partial(work_export, params)
    run_stage(common, plan=lambda: plan_export(params), work=work)


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
