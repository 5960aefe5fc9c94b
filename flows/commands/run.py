"""`sketchmill run`: the whole chain in one command."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import BadInput, Classes, Common, NotNegative, Positive, Stated
from flows.stages.params import ChainParams
from flows.terminal import check_prefect_home, run_stage
from pipelines.processes.progress import doing

ALL = Common()
SEED = Classes()
UNSTATED = Stated()
FAIL = BadInput()


def run(
    *,
    source: str = "doodles",
    classes: Annotated[Classes, Parameter(name="*")] = SEED,
    preset: str = "tiny",
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    max_per_class: int | None = None,
    tfds_slice: str | None = None,
    samples_per_class: Positive = 8,
    guidance: float | None = None,
    seed: int = 0,
    bad: Annotated[BadInput, Parameter(name="*")] = FAIL,
    stated: Annotated[Stated, Parameter(name="*")] = UNSTATED,
    name: str = "",
    workers: int = 1,
    processes: NotNegative = 0,
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Make a dataset, train a model on it, draw new drawings, and show them in a report.

    Running the same command again answers at once; after an interruption it goes on.

    Parameters
    ----------
    source
        doodles (made here, no network), quickdraw (Google's bucket), or a path or URL of files
        in a Quick, Draw! layout.
    preset
        Training preset: tiny, small, article or large.
    set_
        A field of the training spec as field=value; may be repeated.
    max_per_class
        Use only the first so many drawings of each class.
    tfds_slice
        Use exactly the drawings that a TFDS slice selects, such as "train[:500000]".
    samples_per_class
        How many drawings of each class to make.
    guidance
        How much drawings prefer what tells their class from the others; by default 2.5 for
        models that learned for it (condition.dropout_p, as tiny and small do), 0 for others.
    seed
        Decides the doodles, the splits, the training and the drawings.
    name
        Name in the store; made from the source and the preset by default.
    workers
        Processes that build the dataset.
    processes
        Processes that draw; 0 is one a core.
    """
    from pipelines.sources.files import without_secrets  # which takes a moment

    params = ChainParams(
        store=common.store,
        name=name,
        source=without_secrets(source),
        classes=classes.written(),
        preset=preset,
        settings=set_,
        max_per_class=max_per_class,
        tfds_slice=tfds_slice,
        samples_per_class=samples_per_class,
        guidance=guidance,
        seed=seed,
        on_bad_file=bad.on_bad_file,
        on_bad_row=bad.on_bad_row,
        max_bad_rows=bad.max_bad_rows,
        max_points=bad.max_points,
        max_line_bytes=bad.max_line_bytes,
        max_pixels=bad.max_pixels,
        max_row_groups=bad.max_row_groups,
        license=stated.license,
        attribution=stated.attribution,
        workers=workers,
        processes=processes,
    )
    run_stage(common, plan=lambda: plan_chain(params), work=lambda: work_chain(params))


def plan_chain(params: ChainParams) -> Mapping[str, Any]:
    """Return the resolved parameters and what the store already has."""
    from flows.stages.lookup import STAGES, find_chain

    check_chain(params)
    found = find_chain(params)
    state = {
        stage: f"there: {found[stage].digest}" if stage in found else "to be made"
        for stage in STAGES
    }
    return {"params": dataclasses.asdict(params)} | state


def check_chain(params: ChainParams) -> None:
    """Raise ValueError for what no stage could do, before the first begins."""
    from flows.stages.base import check_runner
    from model.network.config import check_guidance
    from model.training.presets import preset
    from model.training.spec import apply_overrides
    from pipelines.store.manifest import check_slug

    spec = apply_overrides(preset(params.preset), params.settings)
    if params.guidance is not None:
        check_guidance(params.guidance, spec.network)
    check_slug(params.model_name)
    check_runner(params.build())


def work_chain(params: ChainParams) -> Mapping[str, Any]:
    """Run the chain unless the store has all of it; return digests, paths and numbers."""
    from flows.stages.lookup import STAGES, chain_result, find_chain
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
