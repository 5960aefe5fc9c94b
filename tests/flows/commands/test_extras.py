"""Each extra of the package in an environment of its own: what works there, and what is missing."""

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import PROJECT, Environment
from prepared import write_tfds

from model.shipped import publish_shipped
from pipelines.drawings.stored_png import encode_pngs
from pipelines.store.artifacts import open_store
from pipelines.store.errors import EXTRA_OF

pytestmark = pytest.mark.slow

EXTRAS = ("", "build", "train", "flows", "hub", "build,tfds", "build,dask")
IMPORT = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
FLOWS = "import flows.deployments.flows, flows.deployments.housekeeping, flows.deployments.serve"
BUILD = ["build", "--classes", "bee", "--max-per-class", "20"]
PYTHON = "import sketchmill; print(sketchmill.load_model('shipped:tiny-20').class_names[0])"
PUSH = ["push", "models/tiny-20", "--hub", "ann/tiny", "--dry-run"]
SAMPLE = ["sample", "--model", "shipped:tiny-20", "--classes", "bee", "--samples-per-class", "1"]
# Of modules whose extra is not there, those that another may still bring.
SHARED = {"matplotlib", "jinja2", "httpx", "yaml", "sqlalchemy"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return a function that makes the environment of extras, once each."""
    made: dict[str, Environment] = {}

    def of(extras: str) -> Environment:
        if extras not in made:
            folder = tmp_path_factory.mktemp("extra") / "venv"
            made[extras] = Environment([f"sketchmill[{extras}]"], folder)
        return made[extras]

    return of


def answer(done) -> dict:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_module_that_is_known_comes_with_its_extra():
    extras = PROJECT["project"]["optional-dependencies"]
    distributions = metadata.packages_distributions()
    for module, extra in EXTRA_OF.items():
        brought = {canonicalize_name(Requirement(text).name) for text in extras[extra]}
        assert brought & {canonicalize_name(name) for name in distributions[module]}, module


@pytest.mark.parametrize("extras", EXTRAS)
def test_environment_has_no_module_of_another_extra(environment, extras, tmp_path):
    absent = [each for each, extra in EXTRA_OF.items() if extra not in extras.split(",")]
    done = environment(extras).run("python", "-c", IMPORT, *absent, folder=tmp_path)
    assert set(json.loads(done.stdout.replace("'", '"'))) <= SHARED


def test_build_makes_a_dataset_and_base_reads_and_checks_the_store(environment, tmp_path):
    publish_shipped("tiny-20", open_store(str(tmp_path / "from")))
    made = [*BUILD, "--name", "small", "--store", "store", "--format", "parquet,tfrecord"]
    built = environment("build").run("sketchmill", *made, "--json", folder=tmp_path)
    assert answer(built)["drawings"]
    base = environment("")
    assert "Usage: sketchmill" in base.run("sketchmill", "--help", folder=tmp_path).stdout
    version = base.run("sketchmill", "--version", folder=tmp_path).stdout
    assert version == f"{metadata.version('sketchmill')}\n"
    for command in (
        ["classes", "sea"],
        ["pull", "models/tiny-20", "--origin", "from"],
        ["ls"],
        ["show", "small"],
        ["verify"],
        ["lineage", "tiny-20"],
        ["diff", "tiny-20", "tiny-20"],
        ["push", "models/tiny-20", "--to", "to"],
        ["gc", "--keep", "1"],
    ):
        answer(base.run("sketchmill", *command, "--json", folder=tmp_path))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (BUILD, "apache_beam: pip install 'sketchmill[build]'"),
        (SAMPLE, "torch: pip install 'sketchmill[train]'"),
        (["deploy"], "prefect: pip install 'sketchmill[flows]'"),
        (["run"], "apache_beam, torch, prefect: pip install 'sketchmill[build,train,flows]'"),
    ],
    ids=["build", "sample", "deploy", "run"],
)
def test_command_whose_extra_is_missing_names_it_in_one_line(environment, command, said, tmp_path):
    done = environment("").run("sketchmill", *command, "--quiet", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sketchmill: this needs {said}\n"


def test_train_draws_from_the_shipped_model(environment, tmp_path):
    done = environment("train").run("sketchmill", *SAMPLE, "--json", folder=tmp_path)
    assert answer(done)["drawings"] == 1
    loaded = environment("train").run("python", "-c", PYTHON, folder=tmp_path)
    assert loaded.stdout == "bee\n", loaded.stderr


def test_flows_has_what_is_deployed(environment, tmp_path):
    done = environment("flows").run("python", "-c", FLOWS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    answer(environment("flows").run("sketchmill", "deploy", "--dry-run", "--json", folder=tmp_path))


def test_hub_plans_what_is_pushed_and_base_says_what_is_missing(environment, tmp_path):
    publish_shipped("tiny-20", open_store(str(tmp_path / "store")))
    answer(environment("hub").run("sketchmill", *PUSH, "--json", folder=tmp_path))
    done = environment("").run("sketchmill", *PUSH, "--quiet", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "sketchmill: this needs huggingface_hub: pip install 'sketchmill[hub]'\n"


def test_tfds_reads_what_tfds_prepared_and_build_alone_says_what_is_missing(environment, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 28, 28), np.uint8)
    pngs = [bytes(png) for png in encode_pngs(noise * (noise > 200))]
    write_tfds(tmp_path / "mine", pngs, [0, 1] * 4)
    command = ["sketchmill", "build", "--source", "mine", "--classes", "bee,sun", "--quiet"]
    done = environment("build").run(*command, folder=tmp_path)
    assert done.returncode == 2
    needs = "this needs tensorflow_datasets: pip install 'sketchmill[tfds]'"
    assert done.stderr == f"sketchmill: mine cannot be read: {needs}\n"
    answer(environment("build,tfds").run(*command, "--json", folder=tmp_path))


def test_dask_finds_no_scheduler_and_build_alone_says_what_is_missing(environment, tmp_path):
    command = ["sketchmill", *BUILD, "--cluster", "tcp://127.0.0.1:1", "--dry-run", "--quiet"]
    done = environment("build").run(*command, folder=tmp_path)
    needs = "this needs dask, distributed: pip install 'sketchmill[dask]'"
    assert (done.returncode, done.stderr) == (2, f"sketchmill: {needs}\n")
    assert environment("build,dask").run(*command, folder=tmp_path).returncode == 0
    asked = ["sketchmill", "doctor", "--cluster", "tcp://127.0.0.1:1", "--store", "store"]
    done = environment("build,dask").run(*asked, folder=tmp_path)
    assert done.returncode == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1 within 20 s" in done.stdout
