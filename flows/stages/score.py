"""The score stage: rank the drawings of a dataset by likelihood."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.stages.base import Inputs, Result, Stage, model_and_dataset, writable_cache
from flows.stages.evaluate import SplitParams
from flows.terminal import check_folder, current
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import drawings_by_split


@dataclass(frozen=True, kw_only=True)
class ScoreParams(SplitParams):
    """Rank drawings by bits/dim under their own label: scribbles and wrong labels come first.

    On a GPU if there is one.

    Parameters
    ----------
    worst
        Number of drawings to list and to show.
    sheet
        PNG file to write, a sheet of these drawings, the least likely first.
    bayes
        Classify these drawings by Bayes' rule too; takes a pass for each class.
    """

    worst: int = 100
    sheet: str = "worst.png"
    bayes: Annotated[bool, Parameter(negative=())] = False


def _check(params: ScoreParams) -> None:
    if params.worst < 1:
        raise ValueError(f"--worst must be at least 1, found {params.worst}")
    check_folder(Path(params.sheet))


def _plan(params: ScoreParams, inputs: Inputs, _store: Store) -> Result:
    drawings = drawings_by_split(inputs["dataset"]).get(params.split, 0)
    return {role: found.digest for role, found in inputs.items()} | {"drawings": drawings}


def _work(params: ScoreParams, inputs: Inputs, store: HeldStore) -> Result:
    from model.evaluation.evaluate import Evaluation
    from model.evaluation.rank import add_posteriors, least_likely, rank_split, sheet_png
    from model.ranks import join_ranks

    model, dataset = inputs["model"], inputs["dataset"]
    with join_ranks() as alone:
        ranked = rank_split(
            model,
            dataset,
            store,
            Evaluation(split=params.split, with_bayes=params.bayes),
            cache_dir=writable_cache() / "drawings",
            device=alone.device,
            progress=current(),
        )
    rows = least_likely(ranked, params.worst)
    if params.bayes:
        rows = add_posteriors(ranked, rows, progress=current())
    Path(params.sheet).write_bytes(sheet_png(ranked, rows))
    digests = {"model": model.digest, "dataset": dataset.digest}
    return digests | {"sheet": params.sheet, "worst": rows}


STAGE = Stage(
    name="score",
    params=ScoreParams,
    check=_check,
    inputs=model_and_dataset,
    plan=_plan,
    work=_work,
    store="read",
)
