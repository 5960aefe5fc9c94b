"""The commands of the images, each in an environment that has the image's packages alone."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import Image, installed_with, pins

from flows.stages.build import BuildParams
from flows.stages.export import ExportParams
from flows.stages.report import ReportParams
from flows.stages.sample import SampleParams
from flows.stages.train import TrainParams

pytestmark = pytest.mark.slow

FLOORS = ("pipelines", "model")
SMALL = ("num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8", "budget_nimg=16")
# What each image must not need, and must not have.
MISSING = {
    "pipelines": ("torch", "torchmetrics", "safetensors", "tensorboard"),
    "model": ("apache_beam", "tensorflow", "tensorflow_datasets", "cairocffi", "google_crc32c"),
}
# Tools that `pip freeze` does not list.
NOT_FROZEN = ("setuptools", "wheel")
KINDS = {
    "build": BuildParams,
    "train": TrainParams,
    "sample": SampleParams,
    "report": ReportParams,
    "audit": ExportParams,
    "export": ExportParams,
}
IMPORT = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The environment of each image."""
    folder = tmp_path_factory.mktemp("images")
    return {floor: Image(floor, folder / floor) for floor in FLOORS}


@pytest.fixture(params=FLOORS)
def image(request, made):
    """The environment of one image, then of the other."""
    return made[request.param]


def test_image_has_what_is_pinned_and_nothing_of_the_other_floor(image, tmp_path):
    other = {
        name: each.version
        for name, each in installed_with(image.floor).items()
        if pins().get(name) != each.version.partition("+")[0] and name not in NOT_FROZEN
    }
    assert other == {}
    done = image.run("python", "-c", IMPORT, *MISSING[image.floor], folder=tmp_path)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["sketchmill", "--help"],
        ["prefect", "worker", "start", "--help"],
        ["python", "-c", "import flows.deployments.flows, flows.deployments.housekeeping"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_image_can_run(image, command, tmp_path):
    done = image.run(*command, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_doctor_says_which_stages_the_image_cannot_do(image, tmp_path):
    done = image.run("sketchmill", "doctor", "--store", "store", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    absent = {"pipelines": "torch is absent: no train", "model": "apache-beam is absent: no build"}
    assert re.search(rf"^note +stages +.*{absent[image.floor]}", done.stdout, re.MULTILINE)


def test_images_do_the_whole_chain_and_the_export(made, tmp_path):
    """The stages that infra/prefect.yaml places on a pool need nothing of the other image."""

    def do(floor: str, job: str, **params) -> dict:
        values = KINDS[job](store=str(tmp_path / "store"), name="net", **params)
        given = json.dumps(dataclasses.asdict(values))
        command = ["python", "-m", "flows.deployments.child", job]
        done = made[floor].run(*command, folder=tmp_path, given=given)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])["result"]

    wanted = {"classes": ("sun", "lightning"), "max_per_class": 100}
    dataset = do("pipelines", "build", **wanted)["digest"]
    model = do("model", "train", dataset=dataset, settings=SMALL)["digest"]
    samples = do("model", "sample", model=model, per_class=1)
    assert samples["summary"]["num_drawings"] == 2
    do("model", "report", samples=samples["digest"])
    ref = f"samples/net@{samples['digest']}"
    do("model", "audit", ref=ref)
    assert do("pipelines", "export", ref=ref)["summary"]["num_drawings"] == 2
    assert do("pipelines", "build", **wanted)["digest"] == dataset
