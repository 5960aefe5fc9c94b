"""`sketchmill train`: from a dataset to a model in the store."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common
from flows.params import TrainParams
from flows.session import run_stage

ALL = Common()


def train(
    *,
    dataset: str,
    preset: str = "tiny",
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    seed: int = 0,
    name: str = "",
    nproc_per_node: int = 0,
    nnodes: int = 1,
    rdzv_endpoint: str = "",
    compile_: Annotated[bool, Parameter(name="--compile", negative=())] = False,
    micro_batch: int = 0,
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Train a conditional PixelCNN++ on a dataset of the store.

    An interrupted run goes on from its last checkpoint when the command is repeated.

    Parameters
    ----------
    dataset
        Name, name@digest, or the first characters of a digest.
    preset
        tiny, small, seed or large.
    set_
        A field of the training spec as field=value; may be repeated.
    seed
        Decides initialization, order and dropout.
    name
        Name in the store; made from the dataset and the preset by default.
    nproc_per_node
        Processes on this machine that share each batch; 0 is what suits its cores.
    nnodes
        Machines that share each batch. Give the same command on each, with a store that all
        can reach.
    rdzv_endpoint
        host:port of one of these machines, where torchrun on all of them meets.
    compile_
        Use torch.compile where a compiler is found: minutes to compile, then faster.
    micro_batch
        Drawings that a process puts through at a time, to save memory; 0 is all of its part.
    """
    params = TrainParams(
        store=common.store,
        name=name,
        dataset=dataset,
        preset=preset,
        settings=set_,
        seed=seed,
        processes=nproc_per_node,
        nodes=nnodes,
        rendezvous=rdzv_endpoint,
        compile=compile_,
        micro_batch_size=micro_batch,
    )
    run_stage(common, plan=lambda: plan_train(params), work=lambda: work_train(params))


def plan_train(params: TrainParams) -> Mapping[str, Any]:
    """Return the resolved spec and whether the store has the model."""
    from flows.stages import train_spec
    from model.spec import run_digest, spec_to_json
    from pipelines.store import open_store

    params = named(params)
    store = open_store(params.store)
    dataset = store.resolve("datasets", params.dataset)
    spec = train_spec(params, dataset)
    digest = run_digest(spec, dataset)
    return {
        "spec": spec_to_json(spec),
        "dataset": dataset.digest,
        "model": digest,
        "name": params.name,
        "is_trained": store.find("models", params.name, digest) is not None,
    }


def work_train(params: TrainParams) -> Mapping[str, Any]:
    """Train and return the model's digest and its likelihood."""
    from flows.stages import train as train_stage

    manifest = train_stage(named(params))
    return {
        "model": manifest.digest,
        "name": manifest.name,
        "bits_per_dim": manifest.summary["test_bits_per_dim"],
        "validation_bits_per_dim": manifest.summary["validation_bits_per_dim"],
    }


def named(params: TrainParams) -> TrainParams:
    """Return the parameters with a name for the model."""
    import dataclasses

    from pipelines.schema import slug
    from pipelines.store import open_store

    if params.name:
        return params
    dataset = open_store(params.store).resolve("datasets", params.dataset)
    return dataclasses.replace(params, name=slug(f"{dataset.name}-{params.preset}"))
