"""`sketchmill train`: from a dataset to a model in the store."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.options import Common, NotNegative
from flows.stages.params import TrainParams
from flows.terminal import run_stage

ALL = Common()


@Parameter(name="*", group="Running")
@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a run is carried out; none of it changes what is learned."""

    work_dir: Annotated[
        str, Parameter(help="Checkpoints, curve and events; by default beside the store.")
    ] = ""
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Parameter(help="auto is a GPU where there is one.")
    ] = "auto"
    checkpoint_interval_sec: Annotated[
        float,
        Parameter(name="--checkpoint-interval", help="Seconds between checkpoints."),
    ] = 120.0
    num_grids: Annotated[
        int, Parameter(name="--grids", help="Pictures of drawings in the whole run; 0 is none.")
    ] = 4


@Parameter(name="*", group="Several machines, as torchrun takes them")
@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Machines that share each batch: the same command on each, and a store that all reach."""

    nnodes: Annotated[str, Parameter(help="Number of machines, or MIN:MAX.")] = "1"
    node_rank: Annotated[
        int | None,
        Parameter(help="This machine's place, from 0; without it they agree on one themselves."),
    ] = None
    rdzv_endpoint: Annotated[
        str, Parameter(help="host:port of one of them, where all of them meet.")
    ] = ""
    rdzv_id: Annotated[str, Parameter(help="Name of the run, the same on all of them.")] = ""
    rdzv_conf: Annotated[
        str, Parameter(help="key=value,...: is_host=1 on the meeting place, is_host=0 elsewhere.")
    ] = ""
    local_addr: Annotated[str, Parameter(help="This machine's address for the others.")] = ""


RUNNING, ONE_MACHINE = Running(), Machines()


def train(
    *,
    dataset: str,
    preset: str = "tiny",
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    seed: int = 0,
    name: str = "",
    nproc_per_node: NotNegative = 0,
    compile_: Annotated[bool, Parameter(name="--compile", negative=())] = False,
    micro_batch: int = 0,
    running: Annotated[Running, Parameter(name="*")] = RUNNING,
    machines: Annotated[Machines, Parameter(name="*")] = ONE_MACHINE,
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Train a conditional PixelCNN++ on a dataset of the store.

    An interrupted run goes on from its last checkpoint when the command is repeated.

    Parameters
    ----------
    dataset
        Name, name@digest, or the first characters of a digest.
    preset
        tiny, small, article or large.
    set_
        A field of the training spec as field=value; may be repeated.
    seed
        Decides initialization, order and dropout.
    name
        Name in the store; made from the dataset and the preset by default.
    nproc_per_node
        Processes on this machine that share each batch; 0 is what suits its cores.
    compile_
        Use torch.compile where it works: minutes to compile, then faster.
    micro_batch
        Drawings that a process puts through at a time, to save memory; 0 is at most 16 on a CPU,
        all of its part on a GPU.
    """
    params = TrainParams(
        store=common.store,
        name=name,
        dataset=dataset,
        preset=preset,
        settings=set_,
        seed=seed,
        processes=nproc_per_node,
        compile=compile_,
        micro_batch_size=micro_batch,
        **dataclasses.asdict(running),
        nodes=machines.nnodes,
        node_rank=machines.node_rank,
        rendezvous=machines.rdzv_endpoint,
        rendezvous_id=machines.rdzv_id,
        rendezvous_conf=machines.rdzv_conf,
        local_address=machines.local_addr,
    )
    run_stage(common, plan=lambda: plan_train(params), work=lambda: work_train(params))


def plan_train(params: TrainParams) -> Mapping[str, Any]:
    """Return the resolved spec and whether the store has the model."""
    from flows.stages.base import rendezvous_options, run_options, train_spec
    from model.options import options_to_json
    from model.training.spec import run_digest, spec_to_json
    from pipelines.store.artifacts import existing_store

    params = named(params)
    store = existing_store(params.store)
    dataset = store.resolve("datasets", params.dataset)
    spec = train_spec(params, dataset)
    digest = run_digest(spec, dataset)
    return {
        "spec": spec_to_json(spec),
        "dataset": dataset.digest,
        "model": digest,
        "name": params.name,
        "options": json.loads(options_to_json(run_options(params))),
        "torchrun": rendezvous_options(params),
        "is_trained": store.find("models", params.name, digest) is not None,
    }


def work_train(params: TrainParams) -> Mapping[str, Any]:
    """Train and return the model's digest and its likelihood."""
    from flows.stages.base import train as train_stage

    manifest = train_stage(named(params))
    return {
        "model": manifest.digest,
        "name": manifest.name,
        "bits_per_dim": manifest.summary["test_bits_per_dim"],
        "validation_bits_per_dim": manifest.summary["validation_bits_per_dim"],
    }


def named(params: TrainParams) -> TrainParams:
    """Return the parameters with a name for the model."""
    from pipelines.store.artifacts import existing_store
    from pipelines.store.manifest import slug

    if params.name:
        return params
    dataset = existing_store(params.store).resolve("datasets", params.dataset)
    return dataclasses.replace(params, name=slug(f"{dataset.name}-{params.preset}"))
