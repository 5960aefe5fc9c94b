"""The chain of stages: dataset, model, samples and report, linked by digests."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.options import (
    DATA,
    DEFAULT_STORE,
    HIDDEN,
    INPUT,
    LIMITS,
    RUNNING,
    SAMPLING,
    TRAINING,
    Classes,
    Cluster,
    LabelNames,
    NotNegative,
    Positive,
    Settings,
    SourceText,
    StoreUrl,
    grouped,
    names_of,
)
from flows.stages import build, report, sample, train
from flows.stages.base import Address, Inputs, Result, Stage, where, write_config
from flows.stages.build import BuildParams, check_runner, dataset_work, source_name
from flows.stages.export import ExportOptions
from flows.stages.report import ReportParams
from flows.stages.sample import SampleParams
from flows.stages.train import TrainParams
from flows.terminal import check_prefect_home
from model.shipped import PREFIX, shipped_manifest, shipped_names
from pipelines.catalogue import SEED_CLASSES
from pipelines.dataset.spec import DatasetSpec, InputOptions
from pipelines.drawings.limits import Limits
from pipelines.processes.guard import check_system
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.errors import LackError, missing_extras
from pipelines.store.held import HeldStore
from pipelines.store.manifest import Kind, Manifest, check_slug, drawings_by_split, slug

if TYPE_CHECKING:  # which imports numpy
    from pipelines.sources.base import Source

Look = Callable[[Kind, str, str], Manifest | None]
# Stages by what they make, and what returns their parameters from the digests made before.
Steps = dict[str, tuple[Stage, Callable[[Mapping[str, str]], Any]]]
# Drawings of a class in the report.
SHOWN = 8
PANELS = {
    DATA: ("max_per_class", "tfds_slice"),
    INPUT: names_of(InputOptions),
    LIMITS: names_of(Limits),
    TRAINING: ("preset", "settings", "init"),
    SAMPLING: ("samples_per_class", "guidance"),
}


@grouped(PANELS)
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ChainParams(Limits, InputOptions):
    """Make a dataset, train a model on it, draw new drawings, and show them in a report.

    Returns immediately if the store has the result; resumes after an interruption.
    source is one of the kinds of pipelines.sources.kinds: doodles, quickdraw, or a path or URL.

    Parameters
    ----------
    preset
        Training preset: tiny, small, article or large.
    settings
        A field of the training spec, which `sketchmill train --dry-run` prints; may be repeated.
    max_per_class
        Only the first N drawings of each class.
    tfds_slice
        Exactly the drawings that a TFDS slice selects, such as "train[:500000]".
    samples_per_class
        Number of drawings of each class.
    guidance
        How much to prefer what tells a class from the others; 0 is the class's own distribution. By
        default the model's own, or 2.5; 0 for models that cannot be guided (condition.dropout_p).
    init
        Model that training starts from, as in `sketchmill train`; none starts anew. By default
        the model that comes with sketchmill, if the source is doodles and its network is the
        preset's, else none.
    seed
        Seed of the doodles, the splits, the training and the drawings.
    name
        Name in the store. By default that of the source, and of source and preset from the model
        on.
    workers
        Number of processes on this machine that build the dataset; ignored with --cluster.
    processes
        Number of processes that sample; 0 means one per GPU, or one per core without GPUs.
    """

    label_names: LabelNames = ()
    source: SourceText = "doodles"
    classes: Annotated[tuple[str, ...], HIDDEN] = SEED_CLASSES
    preset: str = "tiny"
    settings: Settings = ()
    max_per_class: int | None = None
    tfds_slice: str | None = None
    samples_per_class: Positive = 8
    guidance: float | None = None
    init: str = ""
    seed: int = 0
    name: str = ""
    store: StoreUrl = DEFAULT_STORE
    workers: Annotated[int, RUNNING] = 1
    cluster: Cluster = ""
    processes: Annotated[NotNegative, RUNNING] = 0

    @property
    def dataset_name(self) -> str:
        """The dataset's name in the store."""
        return self.name or source_name(self.source)

    @property
    def model_name(self) -> str:
        """The name of the model, its samples and its report."""
        return self.name or f"{source_name(self.source)}-{slug(self.preset)}"

    @property
    def init_model(self) -> str:
        """What `init` stands for."""
        if self.init or self.source != "doodles":
            return self.init or "none"
        from model.training.presets import preset
        from model.training.spec import apply_overrides
        from model.training.warm_start import is_equal

        network = apply_overrides(preset(self.preset), self.settings).network
        equal = [name for name in shipped_names() if is_equal(network, shipped_manifest(name))]
        return PREFIX + equal[0] if equal else "none"

    def first(self) -> SampleParams:
        """Return the parameters of the first drawings, by a shipped model as it is."""
        from model.training.warm_start import matched_classes

        known = shipped_manifest(self.init_model.removeprefix(PREFIX)).summary["class_names"]
        places = matched_classes(known, self.classes)
        return SampleParams(
            store=self.store,
            model=self.init_model,
            # All that it knows, if it knows none of the list.
            classes=tuple(
                name for name, place in zip(known, places, strict=True) if place is not None
            ),
            per_class=SHOWN,
            seed=self.seed,
            processes=self.processes,
        )

    def build(self) -> BuildParams:
        """Return the first stage's parameters."""
        shared = {f.name for f in dataclasses.fields(self)}
        shared &= {f.name for f in dataclasses.fields(BuildParams)}
        values = {name: getattr(self, name) for name in shared}
        return BuildParams(**values | {"name": self.dataset_name})

    def train(self, dataset: str) -> TrainParams:
        """Return the second stage's parameters; `dataset` is a digest."""
        return TrainParams(
            store=self.store,
            name=self.model_name,
            dataset=dataset,
            preset=self.preset,
            settings=self.settings,
            init=self.init_model,
            seed=self.seed,
        )

    def sample(self, model: str) -> SampleParams:
        """Return the third stage's parameters; `model` is a digest."""
        return SampleParams(
            store=self.store,
            name=self.model_name,
            model=model,
            per_class=self.samples_per_class,
            guidance=self.guidance,
            seed=self.seed,
            processes=self.processes,
        )

    def report(self, samples: str, first: str) -> ReportParams:
        """Return the last stage's parameters; the digests of the samples and of the first ones."""
        return ReportParams(
            store=self.store, name=self.model_name, samples=samples, first=first, per_class=SHOWN
        )


class _WithoutTheDrawings:
    """Leaves out what schedules made by earlier versions say of the drawings to export.

    pydantic, with which Prefect reads parameters, asks this for a schema; nothing else has it.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Return the schema of what is annotated, behind this."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(_left_of, handler(source))


def _left_of(export: Any) -> Any:
    if not isinstance(export, Mapping):
        return export
    return {name: value for name, value in export.items() if name not in ("ref", "name", "store")}


@dataclass(frozen=True, kw_only=True)
class BulkParams:
    """Draw many drawings and export them.

    tasks     most ranges of shards to draw, and parts of the export to write, at once
    export    formats and gate; what is exported, and under which name, are the samples drawn
    """

    sample: SampleParams = field(default_factory=SampleParams)
    tasks: int = 2
    export: Annotated[ExportOptions, _WithoutTheDrawings()] = field(default_factory=ExportOptions)

    def __post_init__(self) -> None:
        """Raise ValueError for a number of tasks that draws nothing, or shards."""
        if self.tasks < 1:
            raise ValueError(f"tasks must be 1 or more, found {self.tasks}")
        if self.sample.shards:
            raise ValueError("the flow itself cuts the samples into shards: leave shards empty")


def stages_of(params: ChainParams) -> Steps:
    """Return the stages by what they make, and their parameters from the digests before."""
    is_shipped = params.init_model.startswith(PREFIX)
    first: Steps = {"first": (sample.STAGE, lambda _: params.first())} if is_shipped else {}
    others: Steps = {
        "dataset": (build.STAGE, lambda _: params.build()),
        "model": (train.STAGE, lambda made: params.train(made["dataset"])),
        "samples": (sample.STAGE, lambda made: params.sample(made["model"])),
        "report": (
            report.STAGE,
            lambda made: params.report(made["samples"], made.get("first", "")),
        ),
    }
    return first | others


def find_chain(params: ChainParams, dataset: str, store: Store, look: Look) -> dict[str, Manifest]:
    """Return the complete artifacts of a chain by stage, up to the first that is missing.

    dataset: its digest, empty if that is not known; look: Store.find, or Store.reuse, which makes
    each the latest of its name, as a stage that finds its result does.
    """
    found: dict[str, Manifest] = {}
    for result, (stage, params_of) in stages_of(params).items():
        address: Address = ("datasets", params.dataset_name, dataset)
        if stage.address:
            asked = params_of({made: manifest.digest for made, manifest in found.items()})
            address = stage.address(asked, stage.inputs(asked, store))
        manifest = look(*address) if address[2] else None
        if manifest is not None:
            found[result] = manifest
        elif result != "first":  # which only the report is made of
            break
    return found


def _dataset_digest(spec: DatasetSpec, source: "Source") -> str:
    """Return the digest; empty if it is unknown, for a plan fetches and draws nothing."""
    from pipelines.dataset.build import dataset_digest

    return dataset_digest(spec, source) if source.is_known else ""


def _map_plan(params: ChainParams, work: "tuple[DatasetSpec, Source]", store: Store) -> Result:
    """Return the disk that training on a dataset needs that is to be made; warn of too little.

    A bound: what a selection leaves out of the source is unknown before it is read.
    """
    from model.disk import map_size
    from model.options import drawings_folder

    spec, source = work
    rows, by_class = source.rows, source.rows_by_class()
    if spec.max_per_class is not None and sum(by_class.values()) == rows:
        rows = sum(min(count, spec.max_per_class) for count in by_class.values())
    folder = drawings_folder(train.run_options(params.train("")), store)
    return train.map_plan(folder, map_size(rows, spec.image_size, spec.image_size), is_bound=True)


def _check(params: ChainParams) -> None:
    """Raise ValueError for what this machine or a stage would refuse, before any is started."""
    check_system()
    if lacking := missing_extras("apache_beam", "torch", "prefect"):
        raise LackError(lacking)
    check_chain(params)


def check_chain(params: ChainParams) -> None:
    """Raise ValueError for parameters that a stage would reject, before the first stage starts."""
    from model.network.config import check_guidance
    from model.training.presets import preset
    from model.training.spec import apply_overrides

    spec = apply_overrides(preset(params.preset), params.settings)
    if params.guidance is not None:
        check_guidance(params.guidance, spec.network)
    check_slug(params.model_name)
    check_runner(params.build())


def _plan(params: ChainParams, _inputs: Inputs, store: Store) -> Result:
    """Return the resolved parameters and what the store already has."""
    work = dataset_work(params.build(), plan_only=True)
    found = find_chain(params, _dataset_digest(*work), store, store.find)
    plan: dict[str, Any] = {"params": dataclasses.asdict(params)}
    for made in stages_of(params):
        plan[made] = f"there: {found[made].digest}" if made in found else "to be made"
    if "dataset" not in found:
        return plan | {"memory_map": _map_plan(params, work, store)}
    training = train.STAGE.planned(params.train(found["dataset"].digest))
    return plan | {"memory_map": training["memory_map"]}


def _work(params: ChainParams, _inputs: Inputs, store: HeldStore) -> Result:
    """Run the chain unless the store has all of it; return digests, paths and numbers."""
    check_prefect_home()
    seconds: Mapping[str, float] = {}
    work = dataset_work(params.build())
    found = find_chain(params, _dataset_digest(*work), store, store.reuse)
    if "dataset" not in found:
        _map_plan(params, work, store)
    if "report" not in found:
        with doing("run", "waiting for Prefect"):
            from flows.stages.prefect_flow import run_chain  # starts Prefect, which takes seconds

            made = run_chain(params, stages_of, "{params.dataset_name} {params.preset}")
        seconds = made["seconds"]
        found = find_chain(params, made["dataset"], store, store.find)
        if "report" not in found:
            raise RuntimeError(f"an artifact vanished from {store.url} during the run")
    write_config(STAGE.name, params, found["report"], store, _started_from(params, found["model"]))
    return _result(store, found) | {"seconds": seconds}


def _started_from(params: ChainParams, model: Manifest) -> dict[str, str]:
    """Return the model that `init` found, where it is to be found."""
    init = model.input("init")
    found = f"{init.name}@{init.digest}" if init else "none"
    return {"init": found} if params.init == "auto" else {}


def _result(store: HeldStore, found: Inputs) -> dict[str, Any]:
    """Return what `sketchmill run` prints: digests, the report's path, the numbers."""
    dataset, model, samples, report = (
        found[made] for made in ("dataset", "model", "samples", "report")
    )
    first = {"first": where(store, found["first"])} if "first" in found else {}
    trained = train.STAGE.result(train.TrainParams(), model, store)
    return {
        "dataset": dataset.digest,
        "model": model.digest,
        "samples": samples.digest,
        "dataset_path": where(store, dataset),
        "model_path": where(store, model),
        "samples_path": where(store, samples),
        "report": f"{where(store, report)}/{report.summary['page']}",
        **{name: trained[name] for name in ("bits_per_dim", "bits_per_dim_stderr")},
        "drawings": sum(drawings_by_split(dataset).values()),
        "generated": sum(drawings_by_split(samples).values()),
        **first,
    }


STAGE = Stage(
    name="run",
    params=ChainParams,
    check=_check,
    plan=_plan,
    work=_work,
    store="new",
    classes=Classes,
)
