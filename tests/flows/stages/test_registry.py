"""Every stage has a command; one that is deployed has a flow, a place and a child."""

import dataclasses
from typing import get_type_hints

import pytest
import yaml

from flows.cli import COMMANDS, make_app
from flows.commands.deployments import FILE
from flows.stages.base import Stage
from flows.stages.registry import DEPLOYED, STAGES
from pipelines.store.artifacts import Store, open_store
from pipelines.store.leases import leased
from pipelines.store.manifest import InputRef, Manifest, artifact_digest


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_stage_has_a_command_with_its_parameters(stage: Stage):
    assert stage.name in COMMANDS
    asked = make_app()[stage.name].default_command.__signature__.parameters
    assert asked["options"].default == (stage.options or stage.params)()


@pytest.mark.parametrize("stage", DEPLOYED.values(), ids=DEPLOYED)
def test_every_deployed_stage_has_a_flow_a_place_and_a_deployment(stage: Stage):
    from flows.deployments import flows
    from flows.deployments.remote_run import Places

    flow = getattr(flows, stage.name.replace("-", "_"))
    assert (flow.name, flow.description) == (stage.name, stage.title)
    assert get_type_hints(flow.fn)["params"] is stage.params
    assert stage.place in {field.name for field in dataclasses.fields(Places)}
    entrypoints = [each["entrypoint"] for each in yaml.safe_load(FILE.read_text())["deployments"]]
    assert f"{flows.__name__}.{stage.name.replace('-', '_')}" in entrypoints


def published(store: Store, kind, name: str, *inputs: Manifest) -> Manifest:
    refs = tuple(
        InputRef(
            role=each.kind.removesuffix("s"), kind=each.kind, name=each.name, digest=each.digest
        )
        for each in inputs
    )
    digest = artifact_digest(kind, {}, refs)
    return store.publish(
        Manifest(kind=kind, name=name, digest=digest, spec={}, inputs=refs, files=())
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A store of a dataset, a model of it and samples of that, without files."""
    store = open_store(str(tmp_path_factory.mktemp("store")))
    model = published(store, "models", "net", published(store, "datasets", "real"))
    published(store, "samples", "new", model)
    return store


REFS = {"dataset": "real", "model": "net", "judge": "net", "samples": "new", "ref": "samples/new"}
READING = {
    name: stage for name, stage in (STAGES | DEPLOYED).items() if name not in ("build", "run")
}


@pytest.mark.parametrize("stage", READING.values(), ids=READING)
def test_inputs_of_every_stage_are_leased_while_it_works(stage: Stage, store):
    names = {field.name for field in dataclasses.fields(stage.params)}
    given = {name: ref for name, ref in REFS.items() if name in names} | {"store": store.url}
    seen = []

    def work(_params, inputs, opened):
        now = max(item.modified for item in opened.objects("running"))
        seen.append(([each.prefix for each in inputs.values()], list(leased(opened, now))))
        return {}

    assert dataclasses.replace(stage, work=work).run(stage.params(**given)) == {}
    ((inputs, held),) = seen
    assert inputs
    assert set(inputs) <= set(held)
    assert list(store.objects("running")) == []
