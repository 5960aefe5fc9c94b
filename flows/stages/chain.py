"""The chain of stages: its parameters, and what the store has of it, found from digests alone."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BeforeValidator

from flows.options import DEFAULT_STORE, HIDDEN, MAIN, NotNegative, Positive, SourceText, StoreUrl
from flows.stages.base import where
from flows.stages.build import BuildParams, dataset_work, source_name
from flows.stages.export import ExportOptions
from flows.stages.report import ReportParams
from flows.stages.sample import SampleParams, sample_spec
from flows.stages.train import TrainParams, train_spec
from pipelines.catalogue import SEED_CLASSES
from pipelines.dataset.spec import InputOptions
from pipelines.drawings.limits import Limits
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Kind, Manifest, drawings_by_split, slug

STAGES = ("dataset", "model", "samples", "report")


@dataclass(frozen=True, kw_only=True)
class ChainParams(Limits, InputOptions):
    """Make a dataset, train a model on it, draw new drawings, and show them in a report.

    Run again, it answers at once; after an interruption it goes on.

    Parameters
    ----------
    preset
        Training preset: tiny, small, article or large.
    settings
        A field of the training spec as field=value; may be repeated.
    max_per_class
        Use only the first N drawings of each class.
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

    source: SourceText = "doodles"
    classes: Annotated[tuple[str, ...], HIDDEN] = SEED_CLASSES
    preset: Annotated[str, MAIN] = "tiny"
    settings: Annotated[tuple[str, ...], MAIN, Parameter(name="--set", negative=())] = ()
    max_per_class: Annotated[int | None, MAIN] = None
    tfds_slice: Annotated[str | None, MAIN] = None
    samples_per_class: Annotated[Positive, MAIN] = 8
    guidance: Annotated[float | None, MAIN] = None
    seed: Annotated[int, MAIN] = 0
    name: Annotated[str, MAIN] = ""
    store: StoreUrl = DEFAULT_STORE
    workers: Annotated[int, MAIN] = 1
    processes: Annotated[NotNegative, MAIN] = 0

    @property
    def dataset_name(self) -> str:
        """The dataset's name in the store."""
        return self.name or source_name(self.source)

    @property
    def model_name(self) -> str:
        """The name of the model, its samples and its report."""
        return self.name or f"{source_name(self.source)}-{slug(self.preset)}"

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

    def report(self, samples: str) -> ReportParams:
        """Return the last stage's parameters; `samples` is a digest."""
        return ReportParams(store=self.store, name=self.model_name, samples=samples, per_class=8)


def _without_the_drawings(export: Any) -> Any:
    """Leave out what schedules made by earlier versions say of the drawings to export."""
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
    export: Annotated[ExportOptions, BeforeValidator(_without_the_drawings)] = field(
        default_factory=ExportOptions
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a number of tasks that draws nothing."""
        if self.tasks < 1:
            raise ValueError(f"tasks must be 1 or more, found {self.tasks}")


def find_chain(params: ChainParams, *, reuse: bool = False) -> dict[str, Manifest]:
    """Return the complete artifacts of a chain by stage, up to the first that is missing.

    reuse: make each the latest of its name, as a stage that finds its result does, and fetch or
    draw the source, to know it; without, only what is known of it is looked for.
    """
    store = open_store(params.store)
    look = store.reuse if reuse else store.find
    found: dict[str, Manifest] = {}
    for stage, kind, digest_of_stage in _steps(plan_only=not reuse):
        digest = digest_of_stage(params, found)
        name = params.dataset_name if stage == "dataset" else params.model_name
        manifest = look(kind, name, digest) if digest else None
        if manifest is None:
            break
        found[stage] = manifest
    return found


def chain_result(params: ChainParams, digests: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `sketchmill run` prints: digests, the report's path, the numbers."""
    store = open_store(params.store)
    dataset = _get(store, "datasets", params.dataset_name, digests["dataset"])
    model = _get(store, "models", params.model_name, digests["model"])
    samples = _get(store, "samples", params.model_name, digests["samples"])
    report = _get(store, "reports", params.model_name, digests["report"])
    return {
        "dataset": dataset.digest,
        "model": model.digest,
        "samples": samples.digest,
        "dataset_path": where(store, dataset),
        "model_path": where(store, model),
        "samples_path": where(store, samples),
        "report": f"{where(store, report)}/{report.summary['page']}",
        "bits_per_dim": model.summary["test_bits_per_dim"],
        "drawings": sum(drawings_by_split(dataset).values()),
        "generated": sum(drawings_by_split(samples).values()),
    }


def _steps(*, plan_only: bool):
    dataset_digest = functools.partial(_dataset_digest, plan_only=plan_only)
    return (
        ("dataset", "datasets", dataset_digest),
        ("model", "models", _model_digest),
        ("samples", "samples", _samples_digest),
        ("report", "reports", _report_digest),
    )


def _dataset_digest(
    params: ChainParams, _found: Mapping[str, Manifest], *, plan_only: bool
) -> str | None:
    from pipelines.dataset.build import dataset_digest

    spec, source = dataset_work(params.build(), plan_only=plan_only)
    return dataset_digest(spec, source) if source.is_known else None


def _model_digest(params: ChainParams, found: Mapping[str, Manifest]) -> str:
    from model.training.spec import run_digest

    dataset = found["dataset"]
    return run_digest(train_spec(params.train(dataset.digest), dataset), dataset)


def _samples_digest(params: ChainParams, found: Mapping[str, Manifest]) -> str:
    from model.sampling.spec import samples_digest

    model = found["model"]
    return samples_digest(sample_spec(params.sample(model.digest), model), model)


def _report_digest(params: ChainParams, found: Mapping[str, Manifest]) -> str:
    from model.report.page import report_digest, report_inputs, report_spec

    inputs = report_inputs(found["dataset"], found["model"], found["samples"])
    spec = report_spec(per_class=params.report(found["samples"].digest).per_class)
    return report_digest(spec, inputs)


def _get(store: Store, kind: Kind, name: str, digest: str) -> Manifest:
    found = store.find(kind, name, digest)
    if found is None:
        raise RuntimeError(f"{kind}/{name}/{digest} vanished from {store.url} during the run")
    return found


def plan_chain(params: ChainParams) -> Mapping[str, Any]:
    """Return the resolved parameters and what the store already has."""

    check_chain(params)
    found = find_chain(params)
    state = {
        stage: f"there: {found[stage].digest}" if stage in found else "to be made"
        for stage in STAGES
    }
    return {"params": dataclasses.asdict(params)} | state


def check_chain(params: ChainParams) -> None:
    """Raise ValueError for what no stage could do, before the first begins."""
    from flows.stages.build import check_runner
    from model.network.config import check_guidance
    from model.training.presets import preset
    from model.training.spec import apply_overrides
    from pipelines.store.manifest import check_slug

    spec = apply_overrides(preset(params.preset), params.settings)
    if params.guidance is not None:
        check_guidance(params.guidance, spec.network)
    check_slug(params.model_name)
    check_runner(params.build())
