"""The flows that a worker runs unattended; infra/prefect.yaml deploys them.

    build, train, sample, report, export    one stage each, in a process of its own
    rebuild        the chain for every class list; what the store has is answered at once
    bulk_export    sampling by ranges of shards over tasks or workers, then export

Only digests pass between them, and every stage asks the store first: any run may be killed and
run again, by hand, by schedule or by two workers at once.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from prefect.variables import Variable

from flows.chain import is_transient
from flows.dashboard import show_result, showing_progress
from flows.elsewhere import digest_of_run, run_elsewhere
from flows.exporting import ExportParams
from flows.isolated import MISTAKE_CODE, ExportPartParams, ShardsParams, run_isolated
from flows.launcher import ChildError, DeadlineError, end_with_worker, stopping_children
from flows.params import BuildParams, ChainParams, ReportParams, SampleParams, TrainParams
from pipelines.schema import slug

CLASS_LISTS = "sketchmill_class_lists"
# A server is unsettled by thousands of task runs; so many ranges keep any number of workers busy.
MAX_RANGES = 100


def is_worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether trying again may help: not after a deadline, a mistake, or bad input."""
    try:
        state.result()
    except ChildError as error:
        return not isinstance(error, DeadlineError) and error.code != MISTAKE_CODE
    except Exception:
        return is_transient(_task, _run, state)
    return False


RETRY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 1,
    "retry_condition_fn": is_worth_retrying,
    "cache_policy": NO_CACHE,
}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Deployments that do the stages, such as "build/cpu"; empty: here. And how long each may take.

    deadline_hours  of one stage; it is stopped then and goes on when the flow is run again
    """

    build: str = ""
    train: str = ""
    sample: str = ""
    report: str = ""
    audit: str = ""
    export: str = ""
    export_part: str = ""
    deadline_hours: float = 24.0

    @property
    def deadline_sec(self) -> float:
        """The deadline of one stage in seconds."""
        return self.deadline_hours * 3600


HERE = Places()


@dataclass(frozen=True, kw_only=True)
class BulkParams:
    """Draw many drawings and export them.

    tasks     most ranges of shards to draw, and parts of the export to write, at once
    export    formats and gate; its `ref` is the samples drawn
    """

    sample: SampleParams = field(default_factory=SampleParams)
    tasks: int = 2
    export: ExportParams = field(default_factory=lambda: ExportParams(ref=""))


@task(name="stage", task_run_name="{job} {params.name}", **RETRY)
def stage_task(job: str, params: Any, places: Places) -> str:
    """Do a stage where it is placed; return the digest of what it made."""
    end_with_worker()
    if place := getattr(places, job):
        return digest_of_run(
            run_elsewhere(place, params, key=job, deadline_sec=places.deadline_sec)
        )
    with showing_progress(f"{job} {params.name}", get_run_logger()) as progress:
        result = run_isolated(job, params, deadline_sec=places.deadline_sec, progress=progress)
    if "kind" in result:
        show_result(result)
    return result.get("digest") or result["export"]


@task(name="shards", task_run_name="shards {params.start} to {params.stop}", **RETRY)
def shards_task(params: ShardsParams, places: Places) -> int:
    """Draw a range of shards here or on a worker of another pool; return how many."""
    end_with_worker()
    if places.sample:
        key = f"shards-{params.start}-{params.stop}"
        run_elsewhere(places.sample, params, key=key, deadline_sec=places.deadline_sec)
    else:
        title = f"shards {params.start}-{params.stop}"
        with showing_progress(title, get_run_logger()) as progress:
            run_isolated(
                "sample-shards", params, deadline_sec=places.deadline_sec, progress=progress
            )
    return params.stop - params.start


@task(name="part", task_run_name="part {params.part} of {params.parts}", **RETRY)
def export_part_task(params: ExportPartParams, places: Places) -> int:
    """Write one part of an export's files here or on a worker of another pool."""
    end_with_worker()
    if places.export_part:
        key = f"part-{params.part}"
        run_elsewhere(places.export_part, params, key=key, deadline_sec=places.deadline_sec)
    else:
        title = f"part {params.part} of {params.parts}"
        with showing_progress(title, get_run_logger()) as progress:
            run_isolated("export-part", params, deadline_sec=places.deadline_sec, progress=progress)
    return params.part


@task(name="plan", **RETRY)
def plan_task(params: SampleParams) -> dict[str, Any]:
    """Return the number of shards and those that the store lacks."""
    return run_isolated("plan-sample", params, deadline_sec=3600)


@flow(name="build", flow_run_name="build {params.name}")
def build(params: BuildParams, places: Places = HERE) -> str:
    """Make a dataset of the chosen classes; return its digest."""
    return stage_task("build", params, places)


@flow(name="train", flow_run_name="train {params.name}")
def train(params: TrainParams, places: Places = HERE) -> str:
    """Train a conditional PixelCNN++ on a dataset; return its digest."""
    return stage_task("train", params, places)


@flow(name="sample", flow_run_name="sample {params.name}")
def sample(params: SampleParams, places: Places = HERE) -> str:
    """Draw new labelled drawings from a model; return the samples' digest."""
    return stage_task("sample", params, places)


@flow(name="sample-shards", flow_run_name="shards {params.start} to {params.stop}")
def sample_shards(params: ShardsParams, places: Places = HERE) -> int:
    """Draw a range of shards; the flow that asked for it publishes."""
    return shards_task(params, places)


@flow(name="report", flow_run_name="report {params.name}")
def report(params: ReportParams, places: Places = HERE) -> str:
    """Show real above generated drawings in one page; return its digest."""
    return stage_task("report", params, places)


@flow(name="export", flow_run_name="export {params.ref}")
def export(params: ExportParams, places: Places = HERE) -> str:
    """Write drawings in the formats of other tools; return the export's digest."""
    return stage_task("export", params, places)


@flow(name="audit", flow_run_name="audit {params.ref}")
def audit(params: ExportParams, places: Places = HERE) -> str:
    """Audit samples and check a gate; return the digest of the report that shows it."""
    return stage_task("audit", params, places)


@flow(name="export-part", flow_run_name="part {params.part} of {params.parts}")
def export_part(params: ExportPartParams, places: Places = HERE) -> int:
    """Write one part of an export's files; the flow that asked for it publishes."""
    return export_part_task(params, places)


@flow(name="rebuild", flow_run_name="rebuild {chain.source} {chain.preset}")
def rebuild(
    chain: ChainParams, places: Places = HERE, class_lists: dict[str, list[str]] | None = None
) -> dict[str, str]:
    """Run the chain for every class list; return the report's digest of each.

    class_lists: names and classes; by default the variable "sketchmill_class_lists", and
    without that the classes of `chain`. A list that has not changed costs a look at the store.
    """
    lists = class_lists or Variable.get(CLASS_LISTS)
    if not lists:
        return {chain.model_name: _chain(chain, places)}
    if not isinstance(lists, dict):
        raise ValueError(f"variable {CLASS_LISTS} must be an object of lists, found {lists!r}")
    reports = {}
    for name, classes in lists.items():
        params = replace(chain, name=slug(name), classes=tuple(classes))
        reports[name] = _chain(params, places)
    return reports


@flow(name="bulk-export", flow_run_name="bulk {params.sample.name}")
def bulk_export(params: BulkParams, places: Places = HERE) -> dict[str, str]:
    """Draw a dataset by ranges of shards and export it; return both digests.

    Shards that are there are not drawn again, so a run that failed or was cancelled is
    continued by running it again.
    """
    with stopping_children():
        plan = plan_task(params.sample)
        ranges = split_ranges(plan["missing"])
        get_run_logger().info("%d of %d shards to draw", len(plan["missing"]), plan["shards"])
        asked = [ShardsParams(sample=params.sample, start=a, stop=b) for a, b in ranges]
        _at_most(params.tasks, shards_task, asked, places)
        samples = stage_task("sample", params.sample, replace(places, sample=""))
        ref = f"samples/{params.sample.name}@{samples}"
        wanted = replace(params.export, ref=ref, name=params.sample.name, store=params.sample.store)
        if wanted.with_audit or wanted.filters or wanted.gate:
            stage_task("audit", wanted, places)
        if params.tasks > 1:
            parts = range(params.tasks)
            cut = [ExportPartParams(export=wanted, part=k, parts=len(parts)) for k in parts]
            _at_most(params.tasks, export_part_task, cut, places)
        return {"samples": samples, "export": stage_task("export", wanted, places)}


def _at_most(num: int, task: Any, asked: list[Any], places: Places) -> None:
    """Run a task for each of `asked`, so many at once; raise what the first to fail raises."""
    for start in range(0, len(asked), num):
        futures = [task.submit(each, places) for each in asked[start : start + num]]
        for future in futures:
            future.result()


def split_ranges(shards: list[int]) -> list[tuple[int, int]]:
    """Return runs of consecutive shards, about MAX_RANGES at most.

    >>> split_ranges([0, 1, 2, 6])
    [(0, 1), (1, 2), (2, 3), (6, 7)]
    >>> len(split_ranges(list(range(1000))))
    100
    """
    size = max(1, len(shards) // MAX_RANGES)
    ranges: list[tuple[int, int]] = []
    for shard in shards:
        if ranges and ranges[-1][1] == shard and shard - ranges[-1][0] < size:
            ranges[-1] = (ranges[-1][0], shard + 1)
        else:
            ranges.append((shard, shard + 1))
    return ranges


def _chain(params: ChainParams, places: Places) -> str:
    """Run the stages one after the other; return the report's digest."""
    dataset = stage_task("build", params.build(), places)
    model = stage_task("train", params.train(dataset), places)
    samples = stage_task("sample", params.sample(model), places)
    return stage_task("report", params.report(samples), places)
