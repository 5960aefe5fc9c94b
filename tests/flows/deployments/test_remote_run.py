"""Runs of another deployment: found again, tried again, waited for, cancelled; no real server."""

import json
import threading
import time
from collections import deque
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

from flows.commands.deployments import FILE
from flows.deployments import remote_run
from flows.deployments.deploy import MIN_CPU, QUEUES, WAITING_QUEUES
from flows.deployments.remote_run import (
    GivenUpError,
    LostError,
    Places,
    RemoteRunError,
    cancelling_runs,
    run_remotely,
)
from flows.deployments.tasks import is_worth_retrying, stage_task
from flows.stages.build import BuildParams
from flows.stages.chain import ChainParams
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest, artifact_digest

DEPLOYMENTS = yaml.safe_load(FILE.read_text())["deployments"]
PLACES = Places(deadline_hours=1.0, no_worker_minutes=0)
PARAMS = BuildParams(name="pets", classes=("cat", "dog"))
DONE = Completed(message='{"digest": "d1"}')


def refused(*_):
    raise httpx.ConnectError("connection refused")


def unavailable(code: int):
    request = httpx.Request("GET", "http://server")

    def answer(*_):
        response = httpx.Response(code, request=request)
        raise httpx.HTTPStatusError(str(code), request=request, response=response)

    return answer


class Server:
    """What a run of a deployment needs of Prefect's server; a script says what becomes of it.

    Each read of a run takes the next state of the script; the last one stays.
    """

    def __init__(self, *script, has_worker: bool = True, ran_hours: float = 0.0) -> None:
        self.script, self.has_worker, self.ran_hours = script, has_worker, ran_hours
        self.runs, self.asked, self.cancelled = {}, {}, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def read_deployment_by_name(self, name):
        return SimpleNamespace(id=name)

    def create_flow_run_from_deployment(
        self, deployment, *, parameters, idempotency_key, parent_task_run_id
    ):
        assert parent_task_run_id is None  # no flow run asks
        if idempotency_key not in self.runs:
            run = FlowRun(
                flow_id=uuid4(),
                state=Scheduled(),
                work_pool_name="gpu",
                estimated_run_time=timedelta(hours=self.ran_hours),
            )
            self.runs[idempotency_key] = run
            self.asked[run.id] = (parameters, deque(self.script))
        return self.runs[idempotency_key]

    def read_flow_run(self, run_id):
        (run,) = [run for run in self.runs.values() if run.id == run_id]
        script = self.asked[run_id][1]
        found = script.popleft() if len(script) > 1 else script[0]
        run.state = found(self.asked[run_id][0]) if callable(found) else found
        return run

    def read_workers_for_work_pool(self, pool, worker_filter, limit):
        return ["worker"] if self.has_worker else []

    def set_flow_run_state(self, run_id, state):
        self.cancelled.append(run_id)


@pytest.fixture
def start(monkeypatch):
    monkeypatch.setattr(remote_run, "POLL_SEC", 0.01)
    monkeypatch.setattr(remote_run, "WORKER_POLL_SEC", 0.01)

    def started(*script, **settings) -> Server:
        server = Server(*script, **settings)
        monkeypatch.setattr(remote_run, "get_client", lambda **_: server)
        return server

    return started


def run(params=PARAMS, places=PLACES):
    return run_remotely("build/cpu", params, places)


def test_result_of_a_run_comes_with_its_last_state(start):
    start(Pending(), Running(), remote_run.ended_with({"digest": "d1"}))
    assert run() == {"digest": "d1"}


def test_each_class_list_has_a_run_of_its_own(start):
    def build(parameters):
        return Completed(message=json.dumps({"digest": ",".join(parameters["params"]["classes"])}))

    server = start(build)
    nightly = next(each for each in DEPLOYMENTS if each["name"] == "nightly")
    places = Places(**nightly["parameters"]["places"])
    lists = [("cat", "dog"), ("bee",)]
    chains = [ChainParams(name="pets", classes=classes) for classes in lists]
    built = [stage_task.fn("build", chain.build(), places)["digest"] for chain in chains]
    assert built == ["cat,dog", "bee"]
    changed = ChainParams(name="pets", classes=("bee", "sun"))
    assert stage_task.fn("build", changed.build(), places)["digest"] == "bee,sun"
    assert len(server.runs) == 3


def test_asking_again_finds_the_run_that_goes_on_or_has_completed(start):
    server = start(Running(), DONE)
    assert run() == run() == {"digest": "d1"}
    assert len(server.runs) == 1


def test_completed_run_whose_artifact_is_gone_is_followed_by_another(start, tmp_path):
    store = open_store(str(tmp_path))
    spec = {"seed": 0}
    digest = artifact_digest("datasets", spec, ())
    made = {"kind": "datasets", "name": "pets", "digest": digest}
    server = start(remote_run.ended_with(made))
    params = BuildParams(store=str(tmp_path), name="pets", classes=("cat",))
    manifest = store.publish(Manifest(spec=spec, inputs=(), files=(), **made))
    assert run(params) == run(params) == made
    assert len(server.runs) == 1
    store.delete(f"{manifest.prefix}/manifest.json")
    server.script = (Running(), remote_run.ended_with(made))
    assert run(params) == made
    assert len(server.runs) == 2


def test_run_that_crashed_is_followed_by_another(start):
    server = start(Running(), Crashed(message="killed"))
    with pytest.raises(LostError, match="killed") as caught:
        run()
    assert is_worth_retrying(None, None, SimpleNamespace(result=lambda: refuse(caught.value)))
    server.script = (DONE,)
    assert run() == {"digest": "d1"}
    assert [key[-9:] for key in server.runs] == ["attempt-1", "attempt-2"]


def refuse(error):
    raise error


@pytest.mark.parametrize("end", [Failed(message="why"), Cancelled(message="why")], ids=str)
def test_run_that_failed_by_itself_is_followed_by_another_only_if_asked_for(start, end):
    server = start(end)
    with pytest.raises(RemoteRunError, match="why") as caught:
        run()
    assert not is_worth_retrying(None, None, SimpleNamespace(result=lambda: refuse(caught.value)))
    server.script = (DONE,)
    assert run() == {"digest": "d1"}


def test_server_that_does_not_answer_for_a_while_ends_and_cancels_nothing(start):
    server = start(Running(), refused, refused, unavailable(503), unavailable(500), Running(), DONE)
    assert run() == {"digest": "d1"}
    assert server.cancelled == []


def test_server_that_refuses_us_cancels_nothing(start):
    server = start(Running(), unavailable(401))
    with pytest.raises(httpx.HTTPStatusError):
        run()
    assert server.cancelled == []


def test_stage_without_an_online_worker_fails_and_says_what_to_do(start):
    server = start(Scheduled(), has_worker=False)
    with pytest.raises(GivenUpError, match="prefect worker start --pool gpu"):
        run(places=Places(no_worker_minutes=0.001))
    assert server.cancelled == [each.id for each in server.runs.values()]


def test_stage_waits_for_a_slot_as_long_as_there_is_a_worker(start):
    waiting = [Scheduled()] * 30
    start(*waiting, DONE)
    places = Places(no_worker_minutes=0.001, deadline_hours=1e-9)
    assert run(places=places) == {"digest": "d1"}


def test_run_beyond_its_deadline_is_cancelled(start):
    server = start(Running(), ran_hours=2.0)
    with pytest.raises(GivenUpError, match="its deadline was 1 h"):
        run()
    assert server.cancelled


def test_run_knows_the_deadline(start):
    server = start(DONE)
    run(places=Places(deadline_hours=3.0))
    ((parameters, _),) = server.asked.values()
    assert parameters["places"] == {"deadline_hours": 3.0, "no_worker_minutes": 10.0}


def test_interruption_cancels_the_run(start):
    def interrupt(*_):
        raise KeyboardInterrupt

    server = start(Running(), interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert server.cancelled == [each.id for each in server.runs.values()]


def test_interruption_of_the_main_thread_cancels_the_runs_of_all_threads(start):
    server = start(Running())
    errors = []

    def work(name):
        try:
            run(BuildParams(name=name))
        except GivenUpError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]

    def cancelled():
        with cancelling_runs():
            for thread in threads:
                thread.start()
            limit = time.monotonic() + 20
            while len(server.runs) < 2 and time.monotonic() < limit:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancelled()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 2
    assert set(server.cancelled) == {each.id for each in server.runs.values()}


def test_flow_that_waits_for_stages_leaves_them_a_slot():
    """Whatever waits is in the pool cpu, one run a queue, and no stage needs a place remote_run."""
    waiting = [each for each in DEPLOYMENTS if "places" in each.get("parameters", {})]
    assert {each["work_pool"]["name"] for each in waiting} == {"cpu"}
    queues = {each["work_pool"]["work_queue_name"] for each in waiting}
    assert queues == set(WAITING_QUEUES) < set(QUEUES)
    assert len(queues) < MIN_CPU


def test_every_place_is_a_deployment():
    from flows.deployments import flows as deployed

    names = set()
    for each in DEPLOYMENTS:
        flow_name = getattr(deployed, each["entrypoint"].rpartition(".")[2], None)
        names.add(f"{flow_name.name if flow_name else 'housekeeping'}/{each['name']}")
    for each in DEPLOYMENTS:
        places = each.get("parameters", {}).get("places", {})
        assert set(places.values()) <= names, each["name"]
        Places(**places)
