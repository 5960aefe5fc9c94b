"""The deployed flows; prefect.yaml refers to them by entry point.

    build, ...     one stage each, in a process of its own (flows.stages.registry.DEPLOYED)
    rebuild        the chain for every class list; what the store has is answered at once
    bulk_export    sampling by ranges of shards over tasks or workers, then export

Only digests pass between flows, and every stage looks into the store first, so any run may be
killed and repeated, manually, by schedule, or by two workers at once. A flow of one stage ends in a
state that contains its result, for a run on another machine that waits for it.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from prefect import Flow, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.variables import Variable

from flows.deployments.dashboard import few, name_run, rebuild_name, run_name
from flows.deployments.remote_run import HERE, Places, cancelling_runs, ended_with
from flows.deployments.tasks import results_of_all, run_window, stage_task
from flows.stages.base import Stage
from flows.stages.chain import BulkParams, ChainParams, stages_of
from flows.stages.export import ExportParams
from flows.stages.registry import DEPLOYED
from pipelines.processes.supervise import end_with_worker, stopping_children
from pipelines.store.manifest import slug

CLASS_LISTS = "sketchmill_class_lists"


def _stage_flow(stage: Stage) -> Flow[..., State[Any]]:
    """Return the flow of one stage; it ends with the digest of what was made."""

    def run(params: Any, places: Places = HERE) -> State[Any]:
        return ended_with(stage_task(stage.name, params, places))

    run.__name__ = run.__qualname__ = stage.name.replace("-", "_")
    run.__annotations__["params"] = stage.params  # the form
    return flow(name=stage.name, flow_run_name=run_name, description=stage.title)(run)


# Entry points of prefect.yaml: build, train, sample_shards and so on.
globals().update({name.replace("-", "_"): _stage_flow(each) for name, each in DEPLOYED.items()})


@flow(name="rebuild", flow_run_name="rebuild")  # named once the class lists are known
def rebuild(
    chain: ChainParams,
    places: Places = HERE,
    class_lists: dict[str, list[str]] | None = None,
    warm: bool = False,
) -> dict[str, str]:
    """Run the chain for every class list; return the report's digest of each.

    class_lists: names and classes; by default the variable "sketchmill_class_lists", and
    without that the classes of `chain`. A list that has not changed costs a look at the store,
    and one that fails does not keep the others from being made. warm: training starts from the
    latest model of the list's name, if its network is equal.
    """
    chain = replace(chain, init="auto") if warm else chain
    lists = class_lists or Variable.get(CLASS_LISTS)
    name_run(rebuild_name(chain, lists))
    if not lists:
        reports = {chain.model_name: _chain(chain, places)}
    elif not isinstance(lists, dict):
        raise ValueError(f"variable {CLASS_LISTS} must be an object of lists, found {lists!r}")
    else:
        chains = [_of_list(chain, name, classes) for name, classes in lists.items()]
        made = results_of_all([partial(_chain, params, places) for params in chains])
        reports = dict(zip(lists, made, strict=True))
    name_run(f"rebuild {few([f'{name} @{each[:12]}' for name, each in reports.items()])}")
    return reports


@flow(name="bulk-export", flow_run_name=run_name)
def bulk_export(params: BulkParams, places: Places = HERE) -> dict[str, str]:
    """Draw a dataset by ranges of shards and export it; return both digests.

    Shards that are there are not drawn again, so a run that failed or was cancelled is
    continued by running it again.
    """
    end_with_worker()
    with cancelling_runs(), stopping_children():
        found = stage_task("plan", params.sample, places)
        get_run_logger().info("%d of %d shards to draw", found["missing"], found["shards"])
        sample = replace(params.sample, arithmetic=found["arithmetic"])
        asked = [replace(sample, shards=f"{a}-{b - 1}") for a, b in found["ranges"]]
        _side_by_side("sample-shards", asked, places, params.tasks)
        samples = stage_task("sample", sample, places)["digest"]
        exported = _export(params, samples, places)
    name_run(f"bulk-export {params.sample.name} @{samples[:12]} @{exported[:12]}")
    return {"samples": samples, "export": exported}


def _export(params: BulkParams, samples: str, places: Places) -> str:
    """Audit if that is wanted, write the parts side by side, publish."""
    wanted = ExportParams(
        **asdict(params.export),
        ref=f"samples/{samples}",
        name=params.sample.name,
        store=params.sample.store,
    )
    if wanted.with_audit or wanted.filters or wanted.gate:
        stage_task("audit", wanted, places)
    if params.tasks > 1:
        parts = [replace(wanted, part=f"{k}/{params.tasks}") for k in range(params.tasks)]
        _side_by_side("export-part", parts, places, params.tasks)
    return stage_task("export", wanted, places)["digest"]


def _side_by_side(stage: str, asked: Sequence[Any], places: Places, at_once: int) -> None:
    run_window(lambda params: stage_task.submit(stage, params, places), asked, at_once=at_once)


def _of_list(chain: ChainParams, name: str, classes: Sequence[str]) -> ChainParams:
    return replace(chain, name=slug(name), classes=tuple(classes))


def _chain(params: ChainParams, places: Places) -> str:
    """Run the stages one after the other; return the report's digest."""
    made: dict[str, str] = {}
    for result, (stage, params_of) in stages_of(params).items():
        made[result] = stage_task(stage.name, params_of(made), places)["digest"]
    return made["report"]
