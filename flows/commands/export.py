"""`sketchmill export`: a dataset or samples in the formats of other tools."""

import dataclasses
import functools
from typing import Annotated

from cyclopts import Parameter

from flows.commands.sample import parse_range
from flows.options import Common
from flows.stages.export import (
    ExportOptions,
    ExportParams,
    plan_export,
    work_export,
    work_export_part,
    work_export_range,
)
from flows.terminal import run_stage


def export(
    ref: str,
    /,
    *,
    options: Annotated[ExportOptions, Parameter(name="*")] = ExportOptions(),
    name: str = "",
    part: str = "",
    shards: str = "",
    common: Common = Common(),
) -> None:
    """Write drawings as hf, tfds, webdataset, numpy_bitmap, idx or png, with their provenance.

    Parameters
    ----------
    ref
        Name, name@digest or digest; samples/NAME or datasets/NAME if both have it.
    name
        Name of the export; that of the drawings by default.
    part
        Make this machine's part of the files only, such as 0/4 to 3/4, and publish nothing; the
        same command without it then joins and publishes.
    shards
        Make these files only, such as 0-99, as one of several machines that share the store;
        whoever finds none missing joins and publishes.
    """
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    params = ExportParams(store=common.store, ref=ref, name=name, **given)
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
