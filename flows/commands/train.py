"""`sketchmill train`: from a dataset to a model in the store."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Output
from flows.stages.params import TrainParams
from flows.terminal import run_stage


def train(
    *,
    params: Annotated[TrainParams, Parameter(name="*")] = TrainParams(),
    output: Output = Output(),
) -> None:
    """Train a conditional PixelCNN++ on a dataset of the store.

    An interrupted run goes on from its last checkpoint when the command is repeated.
    """
    run_stage(output, plan=lambda: plan_train(params), work=lambda: work_train(params))


def plan_train(params: TrainParams) -> Mapping[str, Any]:
    """Return the resolved spec and whether the store has the model."""
    from flows.stages.base import model_name, rendezvous_options, run_options, train_spec
    from model.options import options_to_json
    from model.training.spec import run_digest, spec_to_json
    from pipelines.store.artifacts import existing_store

    store = existing_store(params.store)
    dataset = store.resolve("datasets", params.dataset)
    name = model_name(params, dataset)
    spec = train_spec(params, dataset)
    digest = run_digest(spec, dataset)
    return {
        "spec": spec_to_json(spec),
        "dataset": dataset.digest,
        "model": digest,
        "name": name,
        "options": json.loads(options_to_json(run_options(params))),
        "torchrun": rendezvous_options(params),
        "is_trained": store.find("models", name, digest) is not None,
    }


def work_train(params: TrainParams) -> Mapping[str, Any]:
    """Train and return the model's digest and its likelihood."""
    from flows.stages.base import train as train_stage

    manifest = train_stage(params)
    return {
        "model": manifest.digest,
        "name": manifest.name,
        "bits_per_dim": manifest.summary["test_bits_per_dim"],
        "validation_bits_per_dim": manifest.summary["validation_bits_per_dim"],
    }
