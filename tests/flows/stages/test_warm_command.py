"""`--init` through the command line: shipped models, auto, lineage and garbage collection."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.cli import run_command_line as main
from flows.stages.chain import ChainParams
from model.shipped import shipped_manifest, shipped_names
from pipelines.drawings.reading import read_shard, split_shards
from pipelines.store.artifacts import open_store

pytestmark = pytest.mark.slow

TINY = ("--nproc-per-node", "1", "--set", "budget_nimg=32", "--grids", "0", "--json")


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*arguments]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two datasets: of bees and suns, and of suns, owls and bees."""
    folder = tmp_path_factory.mktemp("warm")
    url, source = str(folder / "store"), own_drawings(folder / "own")
    for name, classes in {"two": "bee,sun", "three": "sun,owl,bee"}.items():
        build = ["build", "--store", url, "--name", name, "--source", source, "--quiet"]
        assert main([*build, "--classes", classes]) == 0
    return url


def own_drawings(folder: Path) -> str:
    """Write 60 drawings of each of three classes: two strokes at places of their own."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("bee", "owl", "sun"):
        drawings = np.zeros((60, 28, 28), np.uint8)
        for drawing, (row, column) in zip(drawings, rng.integers(2, 26, (60, 2)), strict=True):
            drawing[row, 2:26] = drawing[2:26, column] = 255
        np.save(folder / f"{name}.npy", drawings.reshape(60, 784))
    return str(folder)


def test_model_starts_from_the_shipped_one_which_is_kept_as_its_input(store, capsys) -> None:
    asked = ("train", "--store", store, "--dataset", "three", "--init", "shipped:tiny-20", *TINY)
    planned = command(capsys, *asked, "--dry-run")
    shipped = shipped_manifest("tiny-20")
    assert planned["init"] == shipped.digest
    assert open_store(store).find("models", "tiny-20", shipped.digest) is None, "a plan wrote"
    made = command(capsys, *asked)
    assert made["model"] == planned["model"]
    model = open_store(store).resolve("models", made["model"])
    assert model.summary["inherited_classes"] == ["sun", "bee"]
    assert model.summary["new_classes"] == ["owl"]
    assert "CC BY 4.0" in model.summary["attribution"]
    tree = command(capsys, "lineage", f"models/{made['model']}", "--store", store, "--json")
    assert f"`-- init: models/tiny-20@{shipped.digest[:12]}\n" in tree["made_of"]
    assert main(["verify", f"models/{made['model']}", "--store", store, "--quiet"]) == 0


def test_auto_starts_from_the_latest_of_the_name_and_again_finds_the_same(store, capsys) -> None:
    train = ("train", "--store", store, "--name", "pets", "--init", "auto", *TINY)
    first = command(capsys, *train, "--dataset", "two")
    second = command(capsys, *train, "--dataset", "three")
    found = open_store(store).resolve("models", second["model"])
    assert [ref.digest for ref in found.inputs if ref.role == "init"] == [first["model"]]
    assert found.summary["new_classes"] == ["owl"]
    swept = ["gc", "--store", store, "--keep", "1", "--grace-days", "0", "--delete", "--quiet"]
    assert main(swept) == 0
    for dataset, made in {"two": first, "three": second, "two ": first}.items():
        again = command(capsys, *train, "--dataset", dataset.strip())
        assert again["model"] == made["model"]


def test_unequal_network_is_bad_input(store, capsys) -> None:
    asked = ["train", "--store", store, "--dataset", "two", "--init", "shipped:tiny-20"]
    assert main([*asked, "--set", "num_filters=8"]) == 2
    assert "network differs: num_filters 16 instead of 8" in capsys.readouterr().err
    assert main([*asked[:-1], "shipped:huge"]) == 2
    assert "shipped:tiny-20" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the package's wheel."""
    folder, root = tmp_path_factory.mktemp("wheel"), Path(__file__).parents[3]
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*build, str(root)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    shutil.unpack_archive(built, folder / "site", "zip")
    return folder / "site"


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_model_of_the_wheel_draws_the_bytes_that_its_card_says(
    name: str, wheel: Path, tmp_path: Path
) -> None:
    """In an empty directory, from an installed package.

    In float64, where another order of sums moves a probability by 1e-13: no pixel of two drawings
    is that close to its bound.
    """
    drawn = ["sample", "--model", f"shipped:{name}", "--classes", "bee,sun", "--dtype", "float64"]
    script = "import sys; from flows.cli import main; sys.exit(main())"
    said = subprocess.run(
        [sys.executable, "-c", script, *drawn, "--samples-per-class", "1", "--json"],
        env=os.environ | {"PYTHONPATH": str(wheel)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    made = json.loads(said.splitlines()[-1])
    store = open_store(str(tmp_path / "store"))
    samples = store.resolve("samples", made["samples"])
    (shard,) = split_shards(samples, "train")
    images = next(read_shard(samples, shard, store))[0]
    model = store.resolve("models", name)
    assert hashlib.sha256(images.tobytes()).hexdigest() in store.read(model, "README.md").decode()
    assert samples.spec["guidance"] == model.summary["guidance"]
    assert store.damaged(model) == []


def test_run_shows_the_shipped_model_first_and_starts_from_it(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    asked = ["run", "--store", str(tmp_path / "store"), "--classes", "bee,sun,owl", "--json"]
    asked += [
        "--source",
        own_drawings(tmp_path / "own"),
        "--init",
        "shipped:tiny-20",
        "--set",
        "budget_nimg=64",
        "--samples-per-class",
        "1",
    ]
    made = command(capsys, *asked)
    assert (Path(made["first"]) / "drawings.png").read_bytes().startswith(b"\x89PNG")
    page = Path(made["report"]).read_text()
    assert "Training started from the model <code>tiny-20@" in page
    assert "made available by Google" in page
    assert "New to it: owl." in page
    assert "drawings of the model that training started from" in page
    again = command(capsys, *asked)
    assert again["seconds"] == {}
    assert again["report"] == made["report"]


def test_run_starts_from_noise_where_the_shipped_model_is_of_no_use() -> None:
    assert ChainParams().init_model == "shipped:tiny-20"
    assert ChainParams(init="none").init_model == "none"
    assert ChainParams(settings=("num_filters=8",)).init_model == "none"
    # Google's attribution comes along only where it is asked for.
    assert ChainParams(source="/data/own").init_model == "none"


def test_report_with_an_audit_has_the_first_drawings_too(store, capsys) -> None:
    train = ("train", "--store", store, "--name", "audited", "--init", "shipped:tiny-20", *TINY)
    command(capsys, *train, "--dataset", "three")
    for model in ("tiny-20", "audited"):
        sample = (
            "sample",
            "--store",
            store,
            "--model",
            model,
            "--samples-per-class",
            "1",
            "--json",
        )
        command(capsys, *sample, "--classes", "bee,sun")
    report = ("report", "--store", store, "--samples", "audited", "--audit", "--json")
    made = command(capsys, *report, "--first", "tiny-20")
    assert "drawings of the model that training started from" in Path(made["report"]).read_text()


def test_shipped_model_without_its_dataset_asks_for_one(store, capsys) -> None:
    asked = ["evaluate", "--store", store, "--model", "shipped:tiny-20"]
    assert main(asked) == 2
    assert "name another one with --dataset" in capsys.readouterr().err
    found = command(capsys, *asked, "--dataset", "two", "--json")
    assert found["bits_per_dim"] > 0
