"""The commands of the images, each in an environment that has the image's packages alone."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import NOT_FROZEN, Image, installed_with, pins, requirements

pytestmark = pytest.mark.slow

FLOORS = ("pipelines", "model")
# What each image must not need, and must not have.
MISSING = {
    "pipelines": ("torch", "torchmetrics", "safetensors", "tensorboard"),
    "model": ("apache_beam", "tensorflow", "tensorflow_datasets", "cairocffi"),
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
        for name, each in installed_with(requirements(image.floor)).items()
        if pins().get(name) != each.version.partition("+")[0] and name not in NOT_FROZEN
    }
    assert other == {}
    done = image.run("python", "-c", IMPORT, *MISSING[image.floor], folder=tmp_path)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["sketchmill", "--help"],
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
