"""What the store already has of a chain, found from digests alone: nothing is computed."""

import functools
from collections.abc import Mapping
from typing import Any

from flows.stages import base as stages
from flows.stages.params import ChainParams
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Kind, Manifest, drawings_by_split

STAGES = ("dataset", "model", "samples", "report")


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


def where(store: Store, manifest: Manifest) -> str:
    """Return the path of an artifact in a local store, its URL in another."""
    local = store.local_path(manifest.prefix)
    return str(local) if local is not None else f"{store.url.rstrip('/')}/{manifest.prefix}"


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

    spec, source = stages.dataset_work(params.build(), plan_only=plan_only)
    return dataset_digest(spec, source) if source.is_known else None


def _model_digest(params: ChainParams, found: Mapping[str, Manifest]) -> str:
    from model.training.spec import run_digest

    dataset = found["dataset"]
    return run_digest(stages.train_spec(params.train(dataset.digest), dataset), dataset)


def _samples_digest(params: ChainParams, found: Mapping[str, Manifest]) -> str:
    from model.sampling.spec import samples_digest

    model = found["model"]
    return samples_digest(stages.sample_spec(params.sample(model.digest), model), model)


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
