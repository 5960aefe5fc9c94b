"""The Python interface: what commands make, read and refuse, from one import."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sketchmill
from flows.cli import run_command_line
from flows.stages.registry import STAGES
from pipelines.drawings.reading import read_shard
from pipelines.store.artifacts import StoreError, open_store
from pipelines.store.errors import AbsentError

SHIPPED = "shipped:tiny-20"


@pytest.fixture(scope="module")
def model() -> sketchmill.Model:
    return sketchmill.load_model(SHIPPED, device="cpu")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of forty doodles of each of two classes, and the cache they are in."""
    site = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKETCHMILL_CACHE", str(site / "cache"))
        sketchmill.run_stage(
            "build", classes=["sun", "bee"], max_per_class=40, store=site / "store", quiet=True
        )
    return site


@pytest.fixture(autouse=True)
def at_site(tmp_path, monkeypatch):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run_python(code: str) -> str:
    """Return what a Python of its own prints, in which `sketchmill` is this checkout's."""
    paths = os.pathsep.join([str(Path(sketchmill.__file__).parents[1]), *sys.path])
    command = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_importing_loads_no_heavy_library():
    heavy = ("torch", "apache_beam", "tensorflow", "prefect", "pyarrow", "numpy", "cyclopts")
    said = run_python(f"import sketchmill, sys; print([m for m in {heavy!r} if m in sys.modules])")
    assert said == "[]\n"


def test_types_and_all_names_are_exported():
    assert Path(sketchmill.__file__).with_name("py.typed").exists()
    assert all(getattr(sketchmill, name).__doc__ for name in sketchmill.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [None, 1.0])
def test_drawings_equal_those_of_the_command(guidance, model, tmp_path, capsys):
    given = ["--classes", "sun,bee", "--samples-per-class", "3", "--seed", "7", "--batch", "4"]
    given += ["--temperature", "0.9", "--processes", "1", "--json", "--quiet"]
    given += [] if guidance is None else ["--guidance", str(guidance)]
    assert run_command_line(["sample", "--model", SHIPPED, *given]) == 0
    digest = json.loads(capsys.readouterr().out)["samples"]
    drawn = model.sample(
        ["sun", "bee"], 3, seed=7, temperature=0.9, guidance=guidance, batch_size=4
    )
    store = open_store("store")
    manifest = store.resolve("samples", digest)
    (shard,) = [entry for entry in manifest.files if entry.split]
    ((images, _, columns),) = read_shard(
        manifest, shard, store, columns=["class_name", "bits_per_dim"]
    )
    assert drawn.images.tobytes() == images.tobytes()
    assert drawn.names == columns["class_name"].tolist() == ["sun", "bee"] * 3
    assert drawn.labels.tolist() == [model.class_names.index(name) for name in drawn.names]
    measured = model.bits_per_dim(drawn.images, drawn.names)
    np.testing.assert_allclose(measured, columns["bits_per_dim"], rtol=1e-5)
    # What the command drew opens, by name and in the place where a hub or a copy puts it.
    shutil.copytree(Path("store", manifest.prefix), tmp_path / "copy")
    for named in ("samples/tiny-20", "./copy"):
        opened = sketchmill.open_dataset(named)
        assert opened.arrays().images.tobytes() == images.tobytes()
        assert opened.class_names == ("sun", "bee")


@pytest.mark.slow
def test_a_model_of_the_store_and_its_folder_are_one(model, tmp_path):
    from model.shipped import publish_shipped

    publish_shipped("tiny-20", open_store("store"))
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for file in Path("store", model.manifest.prefix).iterdir():  # as a hub's cache links them
        (folder / file.name).symlink_to(file.absolute())
    image = np.zeros((1, 28, 28), np.uint8)
    expected = model.log_prob(image, ["bee"])
    for named in ("tiny-20", model.manifest.digest[:8], folder):
        assert sketchmill.load_model(named).log_prob(image, ["bee"]) == expected
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").write_bytes(b"x" * 1_639_128)
    with pytest.raises(StoreError, match=r"weights\.safetensors is damaged.*again"):
        sketchmill.load_model(folder)


def test_log_prob_takes_names_positions_and_a_channel(model):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    nats = model.log_prob(images, ["sun", "bee", "sun"])
    label = model.class_names.index("sun")
    assert nats.shape == (3,)
    assert (model.log_prob(images[:, None], [label, 0, label]) == nats).all()
    np.testing.assert_allclose(
        model.bits_per_dim(images, [label, 0, label]), -nats / 784 / np.log(2)
    )


@pytest.mark.slow
def test_a_dataset_opens_as_arrays_tensors_and_hugging_face(site):
    dataset = sketchmill.open_dataset("doodles", store=site / "store")
    assert dataset.class_names == ("sun", "bee")
    assert sum(dataset.splits.values()) <= 80
    arrays = dataset.arrays("train")
    images, labels = dataset.torch("train").tensors
    assert images.shape == (dataset.splits["train"], 1, 28, 28)
    assert (images[:, 0].numpy() == arrays.images).all()
    assert (labels.numpy() == arrays.labels).all()
    hf = dataset.hf("train")
    assert hf.features["label"].names == ["sun", "bee"]
    assert hf["label"] == arrays.labels.tolist()
    assert (np.stack([np.asarray(picture) for picture in hf["image"]]) == arrays.images).all()
    assert np.asarray(arrays.pictures()[3]).tolist() == arrays.images[3].tolist()


@pytest.mark.slow
def test_a_stage_returns_the_manifest_of_what_the_command_finds(site, capsys, monkeypatch):
    monkeypatch.chdir(site)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(site / "cache"))
    made = sketchmill.run_stage("build", classes=["sun", "bee"], max_per_class=40, quiet=True)
    given = ["--classes", "sun,bee", "--max-per-class", "40", "--json", "--quiet"]
    assert run_command_line(["build", *given]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["dataset"] == made.digest
    assert said.err == ""


def test_the_documentation_names_every_stage():
    assert [name for name in STAGES if name not in sketchmill.run_stage.__doc__] == []


REFUSED = {
    "no model": (lambda: sketchmill.load_model("nope", store="."), AbsentError, "among the models"),
    "no store": (lambda: sketchmill.load_model("nope"), AbsentError, "no store at"),
    "no folder": (lambda: sketchmill.load_model("./nope"), ValueError, "there is no such folder"),
    "no manifest": (lambda: sketchmill.open_dataset(Path()), ValueError, "no manifest.json"),
    "device": (lambda: sketchmill.load_model(SHIPPED, device="gpu"), ValueError, "device gpu"),
    "stage": (lambda: sketchmill.run_stage("buidl"), ValueError, "did you mean 'build'"),
    "field": (
        lambda: sketchmill.run_stage("build", class_names=["bee"]),
        ValueError,
        "build has no parameter 'class_names'",
    ),
    "type": (
        lambda: sketchmill.run_stage("build", classes="bee"),
        ValueError,
        "build: classes: Input should be a list, found bee",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(case):
    call, kind, text = REFUSED[case]
    with pytest.raises(kind, match=text) as refused:
        call()
    assert "\n" not in str(refused.value)
    assert not Path("store").exists()


WRONG = {
    "class": (lambda model: model.sample("beee"), "did you mean 'bee'"),
    "none": (lambda model: model.sample("bee", 0), "per_class must be at least 1"),
    "guidance": (lambda model: model.sample("bee", guidance=-1.0), "guidance must be 0 or more"),
    "shape": (lambda model: model.log_prob(np.zeros((1, 8, 8), np.uint8), [0]), r"\[n, 28, 28\]"),
    "dtype": (lambda model: model.log_prob(np.zeros((1, 28, 28)), [0]), "found float64"),
    "number": (lambda model: model.log_prob(np.zeros((1, 28, 28), np.uint8), [0, 1]), "2 labels"),
    "label": (lambda model: model.log_prob(np.zeros((1, 28, 28), np.uint8), [20]), r"in 0\.\.19"),
    "name": (
        lambda model: model.log_prob(np.zeros((1, 28, 28), np.uint8), ["owl"]),
        "the model has no class 'owl'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_model_refuses_what_it_cannot_do(case, model):
    call, text = WRONG[case]
    with pytest.raises(ValueError, match=text):
        call(model)
