"""`sketchmill judge`: a classifier trained on real drawings, and what it says of samples."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common
from flows.terminal import current, run_stage


def judge(
    *,
    dataset: str,
    samples: str = "",
    name: str = "",
    train_on_samples: Annotated[bool, Parameter(negative=())] = False,
    common: Common = Common(),
) -> None:
    """Train a small CNN on a dataset's training split, and score samples with it.

    Scores: the judge's accuracy on samples and on real test drawings, Frechet distance,
    precision, recall, density and coverage in its feature space, each beside what real drawings
    get, and the distance to the nearest training drawing.

    Parameters
    ----------
    dataset
        The drawings that the judge learns from.
    samples
        Generated drawings to score.
    name
        Name of the judge in the store; <dataset>-judge by default.
    train_on_samples
        Also train a judge on the samples and test it on real drawings.
    """
    run_stage(
        common,
        plan=lambda: _plan(common.store, dataset, name),
        work=lambda: _judge(common.store, dataset, samples, name, train_on_samples),
    )


def _plan(url: str, dataset_ref: str, name: str) -> Mapping[str, Any]:
    from model.evaluation.classifier import classifier_digest, classifier_spec
    from pipelines.store.artifacts import existing_store

    store = existing_store(url)
    dataset = store.resolve("datasets", dataset_ref)
    digest = classifier_digest(classifier_spec(dataset), dataset)
    name = name or f"{dataset.name}-judge"
    is_there = store.find("models", name, digest) is not None
    return {"judge": digest, "name": name, "dataset": dataset.digest, "is_trained": is_there}


def _judge(
    url: str, dataset_ref: str, samples_ref: str, name: str, train_on_samples: bool
) -> Mapping[str, Any]:
    from flows.stages.base import writable_cache
    from model.evaluation.classifier import classifier_spec, train_classifier
    from model.evaluation.compare import classification_accuracy_score, score_samples
    from pipelines.store.held import working_store

    with working_store(url, "judge") as store:
        dataset = store.resolve("datasets", dataset_ref)
        spec, name = classifier_spec(dataset), name or f"{dataset.name}-judge"
        trained = train_classifier(spec, dataset, store, name, progress=current())
        result: dict[str, Any] = {"judge": trained.digest, "name": trained.name}
        if not samples_ref:
            return result | dict(trained.summary)
        samples = store.resolve("samples", samples_ref)
        folder = writable_cache() / "drawings"
        result["samples"] = samples.digest
        result |= score_samples(samples, trained, dataset, store, cache_dir=folder)
        if train_on_samples:
            result["classification_accuracy_score"] = classification_accuracy_score(
                samples, dataset, store, spec=spec, cache_dir=folder, progress=current()
            )
        return result
