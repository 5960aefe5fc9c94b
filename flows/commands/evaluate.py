"""`sketchmill evaluate`: bits/dim of a model over a split of a dataset, and what it classifies.

With several processes, `python -m model.evaluation.evaluate --progress-json` runs as torchrun's ranks
on this machine: it prints progress as JSON lines and its result on the last line. The ranks end when
this process does.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.options import Common, NotNegative
from flows.terminal import ProgressCallback, current, run_stage
from pipelines.processes.progress import doing, json_event
from pipelines.processes.supervise import launch
from pipelines.store.manifest import drawings_by_split


def run_on_ranks(
    module: str, arguments: Sequence[str], *, num: int, progress: ProgressCallback
) -> dict[str, Any]:
    """Run `python -m module` as `num` ranks and return its result.

    Raises ChildError with the last words of the first rank that failed.
    """
    result: dict[str, Any] = {}

    def read(line: str) -> None:
        event = json_event(line)
        if "stage" in event:
            progress(event["stage"], event["done"], event["total"], event["message"])
        elif event:
            result.update(event)

    command = [
        sys.executable,
        "-m",
        "pipelines.processes.parent",
        "model.training.agent",
        "--standalone",
    ]
    command += [f"--nproc-per-node={num}", "-m", "pipelines.processes.parent", module, *arguments]
    with doing(module.rpartition(".")[2], f"waiting for {num} processes"):
        launch(command, on_line=read)
    return result


def evaluate(
    *,
    model: str,
    dataset: str = "",
    split: Literal["train", "validation", "test"] = "test",
    limit: int = 0,
    bayes: Annotated[bool, Parameter(negative=())] = False,
    baseline: Annotated[bool, Parameter(negative=())] = False,
    nproc_per_node: NotNegative = 0,
    common: Common = Common(),
) -> None:
    """Measure a model over a whole split, each drawing once.

    On a GPU if there is one.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    dataset
        The dataset; by default the one the model learned from.
    split
        train, validation or test.
    limit
        Measure N drawings, spread over the split and always the same; 0 is all.
    bayes
        Also take each drawing for the class under which it is most likely: accuracy and
        confusion. Costs a pass for each class.
    baseline
        Also the bits/dim of a model without a network: a histogram of gray levels by pixel and
        class, of the dataset's training split.
    nproc_per_node
        Ranks that share the work; 0 is one a GPU, and one without.
    """
    measured = {"split": split, "limit": limit, "with_bayes": bayes, "with_baseline": baseline}
    run_stage(
        common,
        plan=lambda: _resolved(common.store, model, dataset, split, limit),
        work=lambda: _evaluate(common.store, model, dataset, measured, nproc_per_node),
    )


def _evaluate(
    url: str, model_ref: str, dataset_ref: str, measured: Mapping[str, Any], num_ranks: int
) -> Mapping[str, Any]:
    import torch

    from flows.stages.base import model_and_dataset, writable_cache
    from model.evaluation.evaluate import Evaluation, check_evaluation, evaluate_model
    from model.ranks import join_ranks
    from pipelines.store.held import held_store

    wanted = Evaluation(**measured)
    with held_store(url, "evaluate") as store:
        model, dataset = model_and_dataset(store, model_ref, dataset_ref)
        check_evaluation(model, dataset, store, wanted)
        num_ranks = num_ranks or max(1, torch.cuda.device_count())
        cache = writable_cache() / "drawings"
        if num_ranks > 1:
            return _evaluate_on_ranks(url, model, dataset, wanted, str(cache), num_ranks)
        with join_ranks() as ranks:
            return evaluate_model(
                model, dataset, store, wanted, cache_dir=cache, ranks=ranks, progress=current()
            )


def _evaluate_on_ranks(
    url: str, model: Any, dataset: Any, wanted: Any, cache: str, num_ranks: int
) -> Mapping[str, Any]:
    if url.startswith("memory://"):
        raise ValueError("a memory:// store cannot be shared with ranks: use --nproc-per-node 1")
    arguments = ["--store", url, "--model", f"{model.name}@{model.digest}"]
    arguments += ["--dataset", f"{dataset.name}@{dataset.digest}", "--split", wanted.split]
    arguments += ["--limit", str(wanted.limit), "--cache", cache, "--progress-json"]
    arguments += ["--bayes"] * wanted.with_bayes + ["--baseline"] * wanted.with_baseline
    return run_on_ranks("model.evaluation.evaluate", arguments, num=num_ranks, progress=current())


def _resolved(
    url: str, model_ref: str, dataset_ref: str, split: str, limit: int
) -> Mapping[str, Any]:
    from flows.stages.base import model_and_dataset
    from pipelines.store.artifacts import existing_store

    model, dataset = model_and_dataset(existing_store(url), model_ref, dataset_ref)
    drawings = drawings_by_split(dataset).get(split, 0)
    return {
        "model": model.digest,
        "dataset": dataset.digest,
        "split": split,
        "drawings": min(limit or drawings, drawings),
    }
