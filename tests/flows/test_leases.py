"""While a stage works, its inputs are leased, whoever called it."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import strokes

from flows import stages
from flows.exporting import ExportParams, work_export
from flows.params import SampleParams
from flows.progress import showing
from model.pixelcnn import PixelCNN
from pipelines.leases import leased
from pipelines.schema import Manifest
from pipelines.store import Store, open_store


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
    check_leased(store, dataset, lambda: work_export(params))


def test_sampling_holds_a_lease_on_its_model(store, dataset):
    torch.manual_seed(0)
    model = PixelCNN(dataclasses.replace(strokes.CONFIG, high=255)).eval()
    manifest = strokes.publish_model(store, model, dataset, "net")
    params = SampleParams(store=store.url, model="net", name="new", per_class=1, processes=1)
    check_leased(store, manifest, lambda: stages.sample(params))
    check_leased(
        store, manifest, lambda: stages.sample_range(dataclasses.replace(params, seed=1), 0, 0)
    )
