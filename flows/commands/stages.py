"""`sketchmill run | build | train | sample | report | quota | reproduce | export`: the stages."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Group, Parameter

from flows.options import MAIN, Classes, Common, ModelClasses, Output
from flows.stages.build import BuildParams, plan_build, work_build
from flows.stages.chain import ChainParams, check_chain, plan_chain
from flows.stages.export import (
    ExportOptions,
    ExportParams,
    parse_part,
    plan_export,
    work_export,
    work_export_part,
    work_export_range,
)
from flows.stages.quota import QuotaParams, plan_quota, work_quota, work_reproduce
from flows.stages.report import ReportParams, plan_report, work_report
from flows.stages.sample import SampleParams, parse_range, plan_sample, work_sample
from flows.stages.train import TrainParams, plan_train, work_train
from flows.terminal import check_prefect_home, run_stage
from pipelines.processes.progress import doing

DATASET = Group("The dataset", sort_key=1)
SOURCE = Group("The source", sort_key=1)


def build(
    *,
    params: Annotated[BuildParams, Parameter(name="*", group=DATASET)] = BuildParams(),
    classes: Annotated[Classes, MAIN] = Classes(),
    output: Output = Output(),
) -> None:
    """Make a dataset of the chosen classes: shards and a manifest."""
    from pipelines.sources.files import without_secrets  # which takes a moment

    given = dataclasses.replace(
        params, classes=classes.written(), source=without_secrets(params.source)
    )
    run_stage(output, plan=lambda: plan_build(given), work=lambda: work_build(given))


def train(
    *,
    params: Annotated[TrainParams, Parameter(name="*")] = TrainParams(),
    output: Output = Output(),
) -> None:
    """Train a conditional PixelCNN++ on a dataset of the store.

    An interrupted run goes on from its last checkpoint when the command is repeated.
    """
    run_stage(output, plan=lambda: plan_train(params), work=lambda: work_train(params))


def sample(
    *,
    params: Annotated[SampleParams, Parameter(name="*")] = SampleParams(),
    classes: ModelClasses = ModelClasses(),
    shards: str = "",
    output: Output = Output(),
) -> None:
    """Draw new labelled drawings into a dataset of the standard layout.

    Repeat the command after an interruption: only missing shards are made. Several GPUs share
    the batches of this command; several machines take --shards, or torchrun's ranks on
    `python -m model.sampling`.

    Parameters
    ----------
    shards
        Draw these shards only, such as 0-99, as one of several machines that share the store;
        the one that finds none missing publishes.
    """
    given = dataclasses.replace(params, classes=classes.written(()))  # the model knows its own
    chosen = parse_range(shards) if shards else None
    run_stage(output, plan=lambda: plan_sample(given), work=lambda: work_sample(given, chosen))


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
    run_stage(output, plan=lambda: plan_report(params), work=lambda: work_report(params, audited))


def run(
    *,
    params: Annotated[ChainParams, Parameter(name="*", group=SOURCE)] = ChainParams(),
    classes: Annotated[Classes, MAIN] = Classes(),
    output: Output = Output(),
) -> None:
    """Make a dataset, train a model on it, draw new drawings, and show them in a report.

    Running the same command again answers at once; after an interruption it goes on.
    """
    from pipelines.sources.files import without_secrets  # which takes a moment

    given = dataclasses.replace(
        params, classes=classes.written(), source=without_secrets(params.source)
    )
    run_stage(output, plan=lambda: plan_chain(given), work=lambda: work_chain(given))


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
        the one that finds none missing joins and publishes.
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


def quota(
    *, params: Annotated[QuotaParams, Parameter(name="*")], output: Output = Output()
) -> None:
    """Draw, audit and draw again until each class has exactly its accepted drawings."""
    run_stage(output, plan=lambda: plan_quota(params), work=lambda: work_quota(params))


def reproduce(
    ref: str,
    /,
    *,
    row: int,
    common: Common = Common(),
) -> None:
    """Draw one row of samples again from its recipe and compare every byte.

    Parameters
    ----------
    ref
        Samples: name, name@digest, or the first characters of a digest.
    row
        Its position, from 0.
    """
    run_stage(
        common,
        plan=lambda: {"samples": ref, "row": row},
        work=lambda: work_reproduce(common.store, ref, row),
    )


def work_chain(params: ChainParams) -> Mapping[str, Any]:
    """Run the chain unless the store has all of it; return digests, paths and numbers."""
    from flows.stages.chain import STAGES, chain_result, find_chain
    from pipelines.store.artifacts import open_store
    from pipelines.store.leases import check_writable

    check_prefect_home()
    check_chain(params)
    check_writable(open_store(params.store))
    found = find_chain(params, reuse=True)
    if len(found) == len(STAGES):
        digests: Mapping[str, Any] = {stage: m.digest for stage, m in found.items()}
        return chain_result(params, digests) | {"seconds": {}}
    from flows.deployments.chain import chain  # starts Prefect, which takes seconds

    with doing("run", "waiting for Prefect"):
        digests = chain(params)
    return chain_result(params, digests) | {"seconds": digests["seconds"]}
