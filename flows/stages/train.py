"""The train stage: from a dataset to a model in the store."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.options import (
    DEFAULT_STORE,
    MAIN,
    RUNNING,
    TORCHRUN,
    TRAINING,
    NotNegative,
    Settings,
    StoreUrl,
    grouped,
)
from flows.stages.base import Address, Inputs, Result, Stage, find_model, parent
from flows.terminal import current, warn
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import Manifest, drawings_by_split, slug

MACHINES = Parameter(group=TORCHRUN)


@grouped({TRAINING: ("preset", "settings", "seed", "init")})
@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """Train a conditional PixelCNN++ on a dataset of the store.

    An interrupted run resumes from its last checkpoint. The fields from
    work_dir on say how a run is carried out; none of them changes what is learned.

    Parameters
    ----------
    dataset
        Name, name@digest, or the first characters of a digest.
    preset
        Training preset: tiny, small, article or large.
    settings
        A field of the training spec, which `sketchmill train --dry-run` prints; may be repeated.
    seed
        Seed of initialization, order and dropout.
    init
        Model that training starts from: name, name@digest, or the first characters of a digest;
        shipped:small-20, which comes with sketchmill; auto, the latest of this name with an equal
        network, if there is one; or none. Its classes are matched by name, and the preset then
        trains for fewer drawings.
    name
        Name in the store. By default that of the dataset and the preset.
    processes
        Number of processes on this machine that share each batch; 0 means one per GPU, or as many
        as suit its cores.
    compile
        Use torch.compile where it works: it takes minutes, then steps are faster.
    micro_batch_size
        Number of drawings that a process computes at a time, to save memory; 0 means at most 16 on
        a CPU, and its whole part of the batch on a GPU.
    work_dir
        Folder of checkpoints, curve and TensorBoard events. By default in the store, or in
        ~/.cache/sketchmill if the store is remote.
    device
        Device to train on; auto is cuda where there is one, else the CPU; mps, the GPU of a Mac, is
        untested.
    checkpoint_interval_sec
        Seconds between checkpoints.
    num_grids
        Number of pictures of drawings in the whole run; 0 means none.
    nodes
        Number of machines that share each batch, or MIN:MAX. Each runs the same command with a
        store that all reach.
    node_rank
        Rank of this machine, from 0. By default the rendezvous assigns it.
    rendezvous
        Address host:port of the machine that hosts the rendezvous.
    rendezvous_id
        Name of the run, the same on all of them.
    rendezvous_conf
        Settings key=value,...: is_host=1 on the host of the rendezvous, is_host=0 on the others.
    local_address
        This machine's address for the others.
    """

    dataset: Annotated[str, MAIN, Parameter(required=True)] = "doodles"
    preset: str = "tiny"
    settings: Settings = ()
    seed: int = 0
    init: str = "none"
    name: Annotated[str, MAIN] = ""
    store: StoreUrl = DEFAULT_STORE
    processes: Annotated[NotNegative, RUNNING, Parameter(name="--nproc-per-node")] = 0
    compile: Annotated[bool, RUNNING, Parameter(negative=())] = False
    micro_batch_size: Annotated[int, RUNNING, Parameter(name="--micro-batch")] = 0
    work_dir: Annotated[str, RUNNING] = ""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], RUNNING] = "auto"
    checkpoint_interval_sec: Annotated[float, RUNNING, Parameter(name="--checkpoint-interval")] = (
        120.0
    )
    num_grids: Annotated[int, RUNNING, Parameter(name="--grids")] = 4
    nodes: Annotated[str, MACHINES, Parameter(name="--nnodes")] = "1"
    node_rank: Annotated[int | None, MACHINES] = None
    rendezvous: Annotated[str, MACHINES, Parameter(name="--rdzv-endpoint")] = ""
    rendezvous_id: Annotated[str, MACHINES, Parameter(name="--rdzv-id")] = ""
    rendezvous_conf: Annotated[str, MACHINES, Parameter(name="--rdzv-conf")] = ""
    local_address: Annotated[str, MACHINES, Parameter(name="--local-addr")] = ""


def model_name(params: TrainParams, dataset: Manifest) -> str:
    """Return the model's name, by default made from the dataset and the preset."""
    return params.name or slug(f"{dataset.name}-{params.preset}")


def run_options(params: TrainParams):
    """Return how training is carried out; raise ValueError if an option is out of range."""
    from model.options import RunOptions

    return RunOptions(
        work_dir=Path(params.work_dir).expanduser() if params.work_dir else None,
        device=params.device,
        micro_batch_size=params.micro_batch_size,
        checkpoint_interval_sec=params.checkpoint_interval_sec,
        num_grids=params.num_grids,
        compile=params.compile,
    )


def rendezvous_options(params: TrainParams) -> list[str]:
    """Return torchrun's flags for several machines, none for one.

    With a node rank the machines are counted, else the c10d rendezvous counts them. Raises
    ValueError if a flag is missing or is of no use.
    """
    flags = {
        "--node-rank": params.node_rank,
        "--rdzv-endpoint": params.rendezvous,
        "--rdzv-id": params.rendezvous_id,
        "--rdzv-conf": params.rendezvous_conf,
        "--local-addr": params.local_address,
    }
    given = {flag: value for flag, value in flags.items() if value not in ("", None)}
    if not re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", params.nodes):
        raise ValueError(f"--nnodes {params.nodes}: expected a number of machines or MIN:MAX")
    if params.nodes == "1":
        if given:
            raise ValueError(f"{', '.join(given)} is for several machines: give --nnodes too")
        return []
    if not params.rendezvous:
        raise ValueError("several machines need --rdzv-endpoint host:port beside --nnodes")
    num_nodes = int(params.nodes.rpartition(":")[2])
    if params.node_rank is not None and not 0 <= params.node_rank < num_nodes:
        raise ValueError(f"--node-rank {params.node_rank}: expected 0 to {num_nodes - 1}")
    backend = "c10d" if params.node_rank is None else "static"
    named = [f"{flag}={value}" for flag, value in given.items()]
    return [f"--nnodes={params.nodes}", f"--rdzv-backend={backend}", *named]


def train_spec(params: TrainParams, dataset: Manifest, init: Manifest | None):
    """Return the preset's spec with the settings applied, fitted to the dataset.

    init: the model to start from, for which presets have another schedule.
    """
    from model.training.presets import preset
    from model.training.spec import apply_overrides, fit_to_dataset

    spec = preset(params.preset, is_warm=init is not None)
    spec = apply_overrides(dataclasses.replace(spec, seed=params.seed), params.settings)
    return fit_to_dataset(spec, dataset)


def _inputs(params: TrainParams, store: Store) -> Inputs:
    """Return the dataset and the model to start from, if any.

    Raises ValueError if its network differs.
    """
    from model.training.warm_start import check_network

    dataset = store.resolve("datasets", params.dataset)
    if params.init == "none":
        return {"dataset": dataset}
    if params.init == "auto":
        init = _latest(params, dataset, store)
    else:
        init = find_model(store, params.init)
        check_network(train_spec(params, dataset, init).network, init)
    return {"dataset": dataset} | ({"init": init} if init else {})


def _latest(params: TrainParams, dataset: Manifest, store: Store) -> Manifest | None:
    """Return the latest model of the name with an equal network.

    If one of them is what these parameters make of the dataset, return the model that it started
    from: the same command again finds the same model, although a later one has its name now.
    """
    from model.training.warm_start import is_equal

    name = model_name(params, dataset)
    network = train_spec(params, dataset, None).network
    found = [store.find("models", name, digest) for digest in reversed(store.refs("models", name))]
    equal = [model for model in found if model and is_equal(network, model)]
    for model in equal:
        init = parent(store, model, "init") if model.input("init") else None
        if _digest(params, dataset, init) == model.digest:
            return init
    return equal[0] if equal else None


def _digest(params: TrainParams, dataset: Manifest, init: Manifest | None) -> str:
    from model.training.spec import run_digest

    return run_digest(train_spec(params, dataset, init), dataset, init)


def _address(params: TrainParams, inputs: Inputs) -> Address:
    dataset = inputs["dataset"]
    digest = _digest(params, dataset, inputs.get("init"))
    return "models", model_name(params, dataset), digest


def _plan(params: TrainParams, inputs: Inputs, store: Store) -> Result:
    """Return the resolved spec, the disk it needs, and whether the store has the model."""
    from model.data import map_bytes
    from model.options import drawings_folder, options_to_json
    from model.training.spec import spec_to_json

    kind, name, digest = _address(params, inputs)
    init, options = inputs.get("init"), run_options(params)
    is_trained = store.find(kind, name, digest) is not None
    folder, dataset = drawings_folder(options, store), inputs["dataset"]
    size = 0 if is_trained else map_bytes(dataset, [*drawings_by_split(dataset)], folder)
    return {
        "spec": spec_to_json(train_spec(params, dataset, init)),
        "dataset": dataset.digest,
        "init": init and init.digest,
        "model": digest,
        "name": name,
        "options": json.loads(options_to_json(options)),
        "torchrun": rendezvous_options(params),
        "memory_map": map_plan(folder, size),
        "is_trained": is_trained,
    }


def map_plan(folder: Path, num_bytes: int, *, is_bound: bool = False) -> Result:
    """Return where memory maps of drawings go, the bytes to be written and those free there.

    Warns if they are too few. is_bound: at most num_bytes will be written.
    """
    from model.disk import free_bytes, lacking_room

    warn(lacking_room(folder, num_bytes, is_bound=is_bound))
    size = "max_bytes" if is_bound else "bytes"
    return {"folder": str(folder), size: num_bytes, "free_bytes": free_bytes(folder)}


def _work(params: TrainParams, inputs: Inputs, store: HeldStore) -> Manifest:
    """Train in processes of their own."""
    from model.training.torchrun import train_in_processes

    dataset, init = inputs["dataset"], inputs.get("init")
    return train_in_processes(
        train_spec(params, dataset, init),
        dataset,
        store,
        model_name(params, dataset),
        init=init,
        num_processes=params.processes,
        options=run_options(params),
        progress=current(),
        torchrun_options=rendezvous_options(params),
    )


def _result(_params: TrainParams, made: Manifest, store: HeldStore) -> Result:
    """Return the digest, and likelihoods with their standard errors."""
    result: dict[str, Any] = {"model": made.digest, "name": made.name}
    evaluation = json.loads(store.read(made, "evaluation.json"))
    for split, prefix in {"test": "", "validation": "validation_"}.items():
        for figure in ("bits_per_dim", "bits_per_dim_stderr"):
            result[f"{prefix}{figure}"] = evaluation[split][figure]
    return result | {"test_drawings": evaluation["test"]["num_drawings"]}


STAGE = Stage(
    name="train",
    title="Train a conditional PixelCNN++ on a dataset.",
    params=TrainParams,
    inputs=_inputs,
    address=_address,
    plan=_plan,
    work=_work,
    result=_result,
    place="train",
)
