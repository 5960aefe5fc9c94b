"""`sketchmill evaluate`: bits/dim of a model over a split of a dataset."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common
from flows.session import run_stage

ALL = Common()


def evaluate(
    *,
    model: str,
    dataset: str = "",
    split: str = "test",
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Measure a model over a whole split, each drawing once.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    dataset
        The dataset; by default the one the model learned from.
    split
        train, validation or test.
    """
    run_stage(
        common,
        plan=lambda: _resolved(common.store, model, dataset, split),
        work=lambda: _evaluate(common.store, model, dataset, split),
    )


def _evaluate(url: str, model_ref: str, dataset_ref: str, split: str) -> Mapping[str, Any]:
    from flows.stages import cache_folder, model_and_dataset
    from model.evaluate import evaluate_model

    store, model, dataset = model_and_dataset(url, model_ref, dataset_ref)
    found = evaluate_model(model, dataset, store, split, cache_dir=cache_folder() / "drawings")
    return {"model": model.digest, "dataset": dataset.digest, "split": split} | found


def _resolved(url: str, model_ref: str, dataset_ref: str, split: str) -> Mapping[str, Any]:
    from flows.stages import model_and_dataset

    _, model, dataset = model_and_dataset(url, model_ref, dataset_ref)
    drawings = sum(entry.rows or 0 for entry in dataset.files if entry.split == split)
    return {
        "model": model.digest,
        "dataset": dataset.digest,
        "split": split,
        "drawings": drawings,
    }
