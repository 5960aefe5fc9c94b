"""The evaluate stage: bits/dim of a model over a split, and classification by likelihood.

With several processes, `python -m model.evaluation.evaluate --progress-json` runs as torchrun's
ranks on this machine: it prints progress as JSON lines and its result on the last line. The ranks
end when this process does.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.options import DEFAULT_STORE, RUNNING, NotNegative, StoreUrl
from flows.stages.base import (
    Inputs,
    Result,
    Stage,
    cache_folder,
    model_and_dataset,
    writable_cache,
)
from flows.stages.train import map_plan
from flows.terminal import current
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import drawings_by_split


@dataclass(frozen=True, kw_only=True)
class SplitParams:
    """A model and a split of a dataset.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    dataset
        Dataset: name, name@digest, or the first characters of a digest. By default the one that
        the model was trained on.
    split
        Split of the dataset.
    """

    model: Annotated[str, Parameter(required=True)] = ""
    dataset: str = ""
    split: Literal["train", "validation", "test"] = "test"
    store: StoreUrl = DEFAULT_STORE


@dataclass(frozen=True, kw_only=True)
class EvaluateParams(SplitParams):
    """Measure a model over a whole split, each drawing once.

    On a GPU if there is one.

    Parameters
    ----------
    limit
        Number of drawings, a fixed subset spread over the split; 0 means all.
    bayes
        Classify drawings by Bayes' rule too, and print accuracy and confusion; takes a pass for
        each class.
    baseline
        Print too the bits/dim of a histogram of gray levels by pixel and class, of the training
        split: a model without a network.
    nproc_per_node
        Number of processes on this machine that share the split; 0 means one per GPU, or one
        without GPUs.
    """

    limit: int = 0
    bayes: Annotated[bool, Parameter(negative=())] = False
    baseline: Annotated[bool, Parameter(negative=())] = False
    nproc_per_node: Annotated[NotNegative, RUNNING] = 0


def _plan(params: EvaluateParams, inputs: Inputs, _store: Store) -> Result:
    from model.data import map_bytes

    drawings = drawings_by_split(inputs["dataset"]).get(params.split, 0)
    drawings = min(params.limit or drawings, drawings)
    digests = {role: found.digest for role, found in inputs.items()}
    folder = cache_folder() / "drawings"
    size = map_bytes(inputs["dataset"], _splits(params), folder)
    plan = {"split": params.split, "drawings": drawings, "memory_map": map_plan(folder, size)}
    return digests | plan


def _splits(params: EvaluateParams) -> list[str]:
    """Return the splits that are read."""
    return list(dict.fromkeys([params.split, *["train"] * params.baseline]))


def _work(params: EvaluateParams, inputs: Inputs, store: HeldStore) -> Result:
    import torch

    from model.data import check_map_room
    from model.evaluation.evaluate import Evaluation, check_evaluation, evaluate_model
    from model.ranks import join_ranks

    wanted = Evaluation(
        split=params.split,
        limit=params.limit,
        with_bayes=params.bayes,
        with_baseline=params.baseline,
    )
    model, dataset = inputs["model"], inputs["dataset"]
    check_evaluation(model, dataset, store, wanted)
    num_ranks = params.nproc_per_node or max(1, torch.cuda.device_count())
    cache = writable_cache() / "drawings"
    check_map_room(dataset, _splits(params), cache)
    if num_ranks > 1:
        return _evaluate_on_ranks(params, inputs, str(cache), num_ranks)
    with join_ranks() as ranks:
        return evaluate_model(
            model, dataset, store, wanted, cache_dir=cache, ranks=ranks, progress=current()
        )


def _evaluate_on_ranks(
    params: EvaluateParams, inputs: Inputs, cache: str, num_ranks: int
) -> Result:
    from model.training.torchrun import run_ranks

    if params.store.startswith("memory://"):
        raise ValueError("a memory:// store cannot be shared with ranks: use --nproc-per-node 1")
    arguments = ["--store", params.store, "--split", params.split, "--limit", str(params.limit)]
    for role in ("model", "dataset"):
        arguments += [f"--{role}", f"{inputs[role].name}@{inputs[role].digest}"]
    arguments += ["--cache", cache, "--progress-json"]
    arguments += ["--bayes"] * params.bayes + ["--baseline"] * params.baseline
    module = "model.evaluation.evaluate"
    return run_ranks(module, arguments, num_processes=num_ranks, progress=current())


STAGE = Stage(
    name="evaluate",
    params=EvaluateParams,
    inputs=model_and_dataset,
    plan=_plan,
    work=_work,
    store="read",
)
