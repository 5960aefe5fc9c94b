"""`sketchmill score`: the drawings of a dataset that the model finds least likely."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.options import Common
from flows.terminal import check_folder, current, run_stage
from pipelines.store.manifest import drawings_by_split


def score(
    *,
    model: str,
    dataset: str = "",
    split: Literal["train", "validation", "test"] = "test",
    worst: int = 100,
    sheet: str = "worst.png",
    bayes: Annotated[bool, Parameter(negative=())] = False,
    common: Common = Common(),
) -> None:
    """Rank drawings by bits/dim under their own label: scribbles and wrong labels come first.

    On a GPU if there is one.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    dataset
        The dataset; by default the one the model learned from.
    split
        train, validation or test.
    worst
        How many to list and to draw.
    sheet
        PNG file for the contact sheet of the worst, the least likely first.
    bayes
        Also classify the worst by Bayes' rule; costs a pass for each class.
    """
    run_stage(
        common,
        plan=lambda: _plan(common.store, model, dataset, split),
        work=lambda: _score(common.store, model, dataset, split, worst, sheet, bayes),
    )


def _plan(url: str, model_ref: str, dataset_ref: str, split: str) -> Mapping[str, Any]:
    from flows.stages.base import model_and_dataset
    from pipelines.store.artifacts import existing_store

    model, dataset = model_and_dataset(existing_store(url), model_ref, dataset_ref)
    drawings = drawings_by_split(dataset).get(split, 0)
    return {"model": model.digest, "dataset": dataset.digest, "drawings": drawings}


def _score(
    url: str,
    model_ref: str,
    dataset_ref: str,
    split: Any,
    num: int,
    sheet: str,
    bayes: bool,
) -> Mapping[str, Any]:
    from pathlib import Path

    from flows.stages.base import model_and_dataset, writable_cache
    from model.evaluation.evaluate import Evaluation
    from model.evaluation.rank import add_posteriors, least_likely, rank_split, sheet_png
    from model.ranks import join_ranks
    from pipelines.store.held import held_store

    if num < 1:
        raise ValueError(f"--worst must be at least 1, found {num}")
    check_folder(Path(sheet))
    with held_store(url, "score") as store, join_ranks() as alone:
        model, dataset = model_and_dataset(store, model_ref, dataset_ref)
        ranked = rank_split(
            model,
            dataset,
            store,
            Evaluation(split=split, with_bayes=bayes),
            cache_dir=writable_cache() / "drawings",
            device=alone.device,
            progress=current(),
        )
    rows = least_likely(ranked, num)
    if bayes:
        rows = add_posteriors(ranked, rows, progress=current())
    Path(sheet).write_bytes(sheet_png(ranked, rows))
    return {"model": model.digest, "dataset": dataset.digest, "sheet": sheet, "worst": rows}
