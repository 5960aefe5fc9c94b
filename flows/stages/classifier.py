"""The classifier stage: train a classifier on real drawings and score samples with it."""

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import DEFAULT_STORE, StoreUrl
from flows.stages.base import Inputs, Result, Stage, pinned, writable_cache, write_config
from flows.terminal import current
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore


@dataclass(frozen=True, kw_only=True)
class ClassifierParams:
    """Train a small CNN on a dataset's training split, and score samples with it.

    Scores: the classifier's accuracy on samples and on real test drawings; Frechet distance,
    precision, recall, density and coverage in its feature space, each with the value for real
    drawings; and the distance to the nearest training drawing.

    Parameters
    ----------
    dataset
        Dataset that the classifier is trained on: name, name@digest, or the first characters of a
        digest.
    samples
        Samples to score: name, name@digest, or the first characters of a digest.
    name
        Name in the store. By default that of the dataset with -judge.
    train_on_samples
        Train a classifier on the samples too, and test it on real drawings.
    """

    dataset: Annotated[str, Parameter(required=True)] = ""
    samples: str = ""
    name: str = ""
    train_on_samples: Annotated[bool, Parameter(negative=())] = False
    store: StoreUrl = DEFAULT_STORE


def _inputs(params: ClassifierParams, store: Store) -> Inputs:
    samples = {"samples": store.resolve("samples", params.samples)} if params.samples else {}
    return {"dataset": store.resolve("datasets", params.dataset)} | samples


def _plan(params: ClassifierParams, inputs: Inputs, store: Store) -> Result:
    from model.evaluation.classifier import classifier_digest, classifier_spec

    dataset = inputs["dataset"]
    digest = classifier_digest(classifier_spec(dataset), dataset)
    name = params.name or f"{dataset.name}-judge"
    is_there = store.find("models", name, digest) is not None
    return {"judge": digest, "name": name, "dataset": dataset.digest, "is_trained": is_there}


def _work(params: ClassifierParams, inputs: Inputs, store: HeldStore) -> Result:
    from model.evaluation.classifier import classifier_spec, train_classifier
    from model.evaluation.compare import classification_accuracy_score, score_samples

    dataset, samples = inputs["dataset"], inputs.get("samples")
    spec, name = classifier_spec(dataset), params.name or f"{dataset.name}-judge"
    trained = train_classifier(spec, dataset, store, name, progress=current())
    write_config(STAGE.name, params, trained, store, pinned(params, inputs))
    result: dict[str, Any] = {"judge": trained.digest, "name": trained.name}
    if samples is None:
        return result | dict(trained.summary)
    folder = writable_cache() / "drawings"
    result["samples"] = samples.digest
    result |= score_samples(samples, trained, dataset, store, cache_dir=folder)
    if params.train_on_samples:
        result["classification_accuracy_score"] = classification_accuracy_score(
            samples, dataset, store, spec=spec, cache_dir=folder, progress=current()
        )
    return result


STAGE = Stage(name="classifier", params=ClassifierParams, inputs=_inputs, plan=_plan, work=_work)
