"""While a stage works, its inputs are leased, whoever called it."""

import dataclasses
import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import strokes

from flows.cli import run_command_line
from flows.stages import export, sample
from flows.stages.export import ExportParams
from flows.stages.sample import SampleParams
from flows.terminal import showing
from model.network.pixelcnn import PixelCNN
from pipelines.store import held
from pipelines.store.artifacts import Store, open_store
from pipelines.store.collect import Collector
from pipelines.store.leases import leased
from pipelines.store.manifest import KINDS, MANIFEST_NAME, Manifest
from pipelines.store.objects import Objects
from pipelines.store.reachable import Reachability
from pipelines.store.transfer import copy_artifact


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def dataset(store) -> Manifest:
    return strokes.publish_drawings(store, *strokes.drawings(6, seed=3))


def check_leased(store: Store, manifest: Manifest, work) -> None:
    """Assert that `work` holds a lease on the artifact at its progress, and none at its end."""
    seen = []
    with showing(lambda *_: seen.append(set(leases(store)))):
        work()
    assert seen
    assert all(manifest.prefix in found for found in seen)
    assert leases(store) == []


def leases(store: Store) -> list[str]:
    now = max((item.modified for item in store.objects("running")), default=None)
    return list(leased(store, now)) if now else []


def test_export_holds_a_lease_on_its_dataset(store, dataset):
    params = ExportParams(store=store.url, ref="strokes", formats=("idx",))
    check_leased(store, dataset, lambda: export.STAGE.run(params))


@pytest.mark.slow
def test_sampling_holds_a_lease_on_its_model(store, dataset):
    torch.manual_seed(0)
    model = PixelCNN(dataclasses.replace(strokes.CONFIG, high=255)).eval()
    manifest = strokes.publish_model(store, model, dataset, "net")
    params = SampleParams(store=store.url, model="net", name="new", per_class=1, processes=1)
    check_leased(store, manifest, lambda: sample.STAGE.run(params))
    some = dataclasses.replace(params, seed=1, shards="0")
    check_leased(store, manifest, lambda: sample.STAGE.run(some))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a store of datasets, a model and samples, and another with a dataset."""
    folder = tmp_path_factory.mktemp("chain")
    store = open_store(str(folder / "store"))
    dataset = strokes.publish_drawings(store, *strokes.drawings(6, seed=3))
    torch.manual_seed(0)
    model = PixelCNN(dataclasses.replace(strokes.CONFIG, high=255)).eval()
    strokes.publish_model(store, model, dataset, "net")
    params = SampleParams(store=store.url, model="net", name="new", per_class=2, processes=1)
    sample.STAGE.run(params)
    copy_artifact(dataset, store, open_store(str(folder / "other")))
    build = "build --classes bee,sun --max-per-class 20 --name real --quiet --store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKETCHMILL_CACHE", str(folder / "cache"))
        assert run_command_line([*build.split(), store.url]) == 0
    return folder


@pytest.fixture
def chain(made, tmp_path, monkeypatch) -> Path:
    """A copy of that, which is the current directory."""
    folder = tmp_path / "chain"
    shutil.copytree(made, folder)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


COMMANDS = [
    "evaluate --model net",
    "score --model net --worst 1",
    "complete --model net --dataset strokes --num 1",
    "sample --model net --samples-per-class 1 --processes 1 --name more",
    "quota --model net --samples-per-class 1 --processes 1 --name filled",
    "reproduce new --row 1",
    "export new --format idx --no-audit",
    "export strokes --format png --out out",
    "classifier --dataset real",
    "verify real new",
    "push samples/new --to other",
    "pull strokes --origin other --store pulled",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_leases_every_artifact_whose_files_it_reads(chain, monkeypatch, capsys, command):
    read, bare = [], []

    def watch(name: str) -> None:
        original = getattr(Objects, name)

        def watched(self: Objects, path: str, *arguments):
            if path.split("/")[0] in KINDS and not path.endswith(MANIFEST_NAME):
                read.append(path)
                store = open_store(self.url)
                prefix = "/".join(path.split("/")[:3])
                if prefix not in leases(store) and not is_made_into_leased(store, prefix):
                    bare.append(path)
            return original(self, path, *arguments)

        monkeypatch.setattr(Objects, name, watched)

    for name in ("get", "get_range", "view", "chunks", "sha256"):
        watch(name)
    given = command.split()
    given += [] if "--store" in given else ["--store", "store"]
    assert run_command_line([*given, "--quiet"]) == 0, capsys.readouterr().err
    assert read
    assert bare == []
    assert leases(open_store("store")) == []


def is_made_into_leased(store: Store, prefix: str) -> bool:
    held = [path for path in leases(store) if path.split("/")[0] in KINDS]
    kind, _, digest = prefix.split("/")
    return (kind, digest) in Reachability(store, 0).lineage(held)


def test_verify_calls_nothing_damaged_that_a_collection_has_taken(chain, monkeypatch, capsys):
    def check_held(manifest, store, check):
        if manifest.kind == "samples":
            for path in store.ref_entries("samples", "new"):
                store.delete(path)
            Collector(store, grace=timedelta(0)).collect()
        return held.check_held(manifest, store, check)

    monkeypatch.setattr("flows.commands.artifacts.check_held", check_held)
    shutil.rmtree("store/datasets/strokes")
    shutil.rmtree("store/models")
    assert run_command_line(["verify", "--store", "store", "--json"]) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [name.split("@")[0] for name in problems] == ["datasets/real"]


def test_what_is_gone_is_a_failure_and_no_bad_input(chain, monkeypatch, capsys):
    resolve = Store.resolve

    def too_late(self, kind, ref):
        manifest = resolve(self, kind, ref)
        self.delete(f"{manifest.prefix}/{MANIFEST_NAME}")
        return manifest

    monkeypatch.setattr(Store, "resolve", too_late)
    assert run_command_line(["reproduce", "new", "--row", "0", "--store", "store"]) == 1
    assert "was deleted from" in capsys.readouterr().err
    assert leases(open_store("store")) == []
