"""Whose drawings they are, from the command line to the last card: nobody's but who is known."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import mlcroissant
import numpy as np
import pytest
import tensorflow_datasets as tfds
from huggingface_hub import DatasetCard

from flows.cli import run_command_line
from pipelines import catalogue
from pipelines.dataset.describe import source_credit
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings import credit
from pipelines.sources.base import Source, SourceFile
from pipelines.sources.doodles.make import draw, google_npy, render
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import manifest_to_json

FORMATS = "hf,tfds,webdataset,numpy_bitmap,idx,png"
GOOGLES = re.compile(r"google|quick, ?draw|cc[- ]by|creativecommons.org/licenses", re.IGNORECASE)
BINARY = (".parquet", ".tar", ".npy", ".png", ".safetensors", ".tfrecord", "-ubyte")


class Place:
    """An empty directory with a source of the user's, and the command."""

    def __init__(self, folder: Path, capsys) -> None:
        self.folder, self.capsys = folder, capsys
        self.source = folder / "mine"
        self.source.mkdir()
        for seed, name in enumerate(("sun", "tree")):
            self.write(name, seed)

    def write(self, name: str, seed: int) -> bytes:
        content = google_npy(render(draw(name, seed, 60)))
        (self.source / f"{name}.npy").write_bytes(content)
        return content

    def run(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code, and the JSON or the error."""
        shared = ["--store", str(self.folder / "store"), "--json", "--quiet"]
        code = run_command_line([*arguments, *shared])
        said = self.capsys.readouterr()
        return code, said.err if code else said.out.splitlines()[-1]

    def build(self, *arguments: str) -> Path:
        """Return the folder of the dataset."""
        if "--source" not in arguments:
            arguments = ("--source", str(self.source), *arguments)
        if "--classes" not in arguments:
            arguments = ("--classes", "all", *arguments)
        code, said = self.run("build", "--name", "own", *arguments)
        assert code == 0, said
        return self.folder / "store/datasets/own" / json.loads(said)["dataset"]

    def export(self, ref: str = "own", formats: str = FORMATS) -> Path:
        """Return the folder of the export."""
        out = self.folder / f"out-{ref.replace('/', '-')}"
        code, said = self.run("export", ref, "--format", formats, "--out", str(out))
        assert code == 0, said
        return out


@pytest.fixture
def place(tmp_path, monkeypatch, capsys) -> Place:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path, capsys)


@pytest.fixture
def official(place, monkeypatch):
    """Return a function that makes a file's content one of Google's, as the catalogue has it."""
    known: set[str] = set()
    monkeypatch.setattr(catalogue, "_official_digests", lambda: known)

    def enter(name: str) -> None:
        content = (place.source / f"{name}.npy").read_bytes()
        known.add(f"sha256:{hashlib.sha256(content).hexdigest()}")

    return enter


def texts(folder: Path) -> dict[str, str]:
    """Return every text file below a folder, by its path."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(BINARY)]
    return {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in files
        if ".tfrecord-" not in path.name
    }


def claims(folder: Path) -> dict[str, list[str]]:
    """Return what names Google or its license, by file."""
    found = {path: GOOGLES.findall(text) for path, text in texts(folder).items()}
    return {path: words for path, words in found.items() if words}


def card(folder: Path) -> dict:
    return DatasetCard.load(folder / "README.md").data.to_dict()


def summary(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["summary"]


def croissant(folder: Path) -> dict:
    return json.loads((folder / "croissant.json").read_text())


@pytest.mark.slow
def test_own_drawings_are_not_called_googles_in_any_file(place):
    built = place.build("--format", "parquet,tfrecord")
    assert claims(built) == {}
    assert claims(place.export()) == {}
    assert {"license", "attribution"}.isdisjoint(summary(built))
    assert card(built)["license"] == "unknown"
    text = (built / "README.md").read_text()
    assert "License and attribution of the source drawings are not stated" in text
    assert "`--license` and `--attribution`" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")  # TFDS's own
def test_what_the_user_states_is_carried_into_every_card(place):
    stated = ("--license", "cc0-1.0", "--attribution", " Drawn by Ann. ")
    built = place.build("--format", "parquet,tfrecord", *stated)
    out = place.export()
    assert claims(built) == claims(out) == {}
    for folder in (built, out):
        assert summary(folder)["license"] == "CC0-1.0"
        assert summary(folder)["attribution"] == "Drawn by Ann."
        assert "Drawn by Ann. License: CC0-1.0 (https://spdx.org" in texts(folder)["README.md"]
        assert croissant(folder)["license"] == "https://spdx.org/licenses/CC0-1.0.html"
        assert croissant(folder)["citeAs"].startswith("Drawn by Ann. ")
        assert "url" not in croissant(folder)
    assert card(built)["license"] == card(out / "hf")["license"] == "cc0-1.0"
    for path in (built / "tfrecord/own/1.0.0", out / "tfds/own/1.0.0"):
        info = tfds.builder_from_directory(path).info
        assert info.citation == "Drawn by Ann."
        assert info.redistribution_info.license == "CC0-1.0"


@pytest.mark.slow
def test_googles_files_are_known_by_their_checksum(place, official):
    official("sun")
    official("tree")
    built = place.build()
    out = place.export(formats="hf,tfds")
    for folder in (built, out):
        assert summary(folder)["license"] == "CC-BY-4.0"
        assert summary(folder)["attribution"].startswith("The Quick, Draw! Dataset, made available")
        assert croissant(folder)["license"] == "https://creativecommons.org/licenses/by/4.0/"
        assert croissant(folder)["url"] == "https://quickdraw.withgoogle.com/data"
    for found in (card(built), card(out / "hf")):
        assert found["license"] == "cc-by-4.0"
        assert "quickdraw" in found["tags"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "linked"])
def test_a_part_of_googles_is_called_a_part(place, official, layout):
    official("sun")
    built = place.build("--layout", layout)
    assert summary(built)["attribution"].startswith("In part (1 of 2 files): The Quick, Draw!")
    assert "license" not in summary(built)
    assert card(built)["license"] == "unknown"
    assert "No license is stated for the source drawings as a whole" in texts(built)["README.md"]
    built = place.build("--layout", layout, "--license", "MIT", "--attribution", "The rest: Ann.")
    assert summary(built)["license"] == "MIT AND CC-BY-4.0"
    assert summary(built)["attribution"].startswith("The rest: Ann. In part (1 of 2 files): The")
    assert card(built)["license"] == ["mit", "cc-by-4.0"]
    if layout == "linked":
        parts = summary(built)["parts"]
        folders = [place.folder / "store/datasets" / part.replace("@", "/") for part in parts]
        assert ["Quick" in summary(folder)["attribution"] for folder in folders] == [True, False]


def test_the_user_may_say_that_strokes_or_parts_of_files_are_googles(place):
    built = place.build("--attribution", "QuickDraw")
    assert summary(built)["license"] == "CC-BY-4.0"
    assert summary(built)["attribution"].startswith("The Quick, Draw! Dataset, made available")
    assert json.loads((built / "manifest.json").read_text())["spec"]["attribution"] == "quickdraw"


@pytest.mark.parametrize(
    ("place_of_file", "expected"),
    [
        ("gs://quickdraw_dataset/full/simplified", "CC-BY-4.0"),
        ("https://storage.googleapis.com/quickdraw_dataset/full/raw", "CC-BY-4.0"),
        ("gs://quickdraw_dataset_of_mine/full/simplified", ""),
        ("https://host/storage.googleapis.com/quickdraw_dataset", ""),
    ],
)
def test_what_is_read_from_googles_bucket_is_googles(place_of_file, expected):
    url = f"{place_of_file}/bee.ndjson"
    file = SourceFile(
        url=url, format="simplified", class_name="bee", rows=9, bytes=9, digest="etag:9-a"
    )
    source = Source(name="simplified", class_names=("bee",), files=(file,))
    assert source_credit(DatasetSpec(class_names=("bee",)), source).license == expected


def test_a_folder_that_is_named_quickdraw_is_not_googles_for_that(place):
    named = place.folder / "quickdraw"
    place.source.rename(named)
    built = place.build("--source", str(named))
    assert "attribution" not in summary(built)
    assert "Google" not in texts(built)["README.md"]


@pytest.mark.slow
def test_doodles_are_the_programs(place):
    built = place.build("--source", "doodles", "--classes", "sun", "--max-per-class", "50")
    out = place.export(formats="hf,idx")
    for folder in (built, out):
        assert summary(folder)["license"] == "Apache-2.0"
        assert "made by sketchmill's doodle program" in texts(folder)["README.md"]
        assert "Google" not in "".join(texts(folder).values())
        assert "quickdraw" not in croissant(folder)
    assert card(built)["license"] == "apache-2.0"
    assert card(built)["tags"] == ["sketches", "synthetic"]
    code, said = place.run("build", "--attribution", "quickdraw", "--dry-run")
    assert code == 2
    assert "not Google's: leave --attribution quickdraw out" in said


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--license", "CC BY 4.0", "write one of https://spdx.org/licenses such as CC-BY-4.0"),
        ("--license", "cc-by", "is no id of SPDX"),
        ("--license", "MIT OR Apache-2.0", "several joined by AND"),
        ("--attribution", "Ann\nBob", "must be one line of text"),
    ],
)
@pytest.mark.parametrize("command", ["build", "run"])
def test_what_no_card_can_say_is_refused(place, command, option, text, said):
    code, error = place.run(
        command, "--source", str(place.source), "--classes", "all", option, text
    )
    assert code == 2
    assert said in error


def test_a_dry_run_says_what_the_cards_will_say(place, official):
    code, said = place.run("build", "--source", "quickdraw", "--classes", "bee", "--dry-run")
    assert code == 0, said
    assert "license" not in json.loads(said)
    official("sun")
    official("tree")
    arguments = ("--source", str(place.source), "--classes", "all", "--dry-run")
    code, said = place.run("build", *arguments)
    assert code == 0, said
    assert json.loads(said)["license"] == "CC-BY-4.0"


@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # its pandas calls
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # mlcroissant's own
@pytest.mark.parametrize(
    "stated", [(), ("--license", "MIT"), ("--license", "MIT AND LicenseRef-ours")]
)
@pytest.mark.slow
def test_croissant_and_card_are_valid_whatever_is_stated(place, stated):
    built = place.build(*stated)
    out = place.export(formats="hf")
    for folder in (built, out):
        assert not mlcroissant.Dataset(folder / "croissant.json").metadata.ctx.issues.errors
    names = {0: "unknown", 2: "mit"}
    found = card(built)
    if stated and "ours" in stated[1]:
        assert found["license"] == "other"
        assert found["license_name"] == "mit-and-licenseref-ours"
    else:
        assert found["license"] == names[len(stated)]


@pytest.mark.slow
def test_an_older_dataset_says_on_what_its_manifest_says(place):
    """Before there was a license every manifest said Google's; without a word there is none."""
    built = place.build()
    store = open_store(str(place.folder / "store"))
    manifest = store.resolve("datasets", "own")
    old = manifest.summary | {"attribution": credit.GOOGLES.attribution}
    (built / "manifest.json").write_bytes(
        manifest_to_json(dataclasses.replace(manifest, summary=old))
    )
    out = place.export(formats="hf")
    assert card(out / "hf")["license"] == "cc-by-4.0"
    assert "quickdraw" in card(out / "hf")["tags"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stated", [(), ("--license", "MIT", "--attribution", "Drawn by Ann.")])
def test_model_samples_and_report_say_what_the_dataset_says(place, stated):
    place.build(*stated)
    small = ["num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8", "budget_nimg=16"]
    settings = [part for setting in small for part in ("--set", setting)]
    for arguments in (
        ("train", "--dataset", "own", "--name", "net", *settings),
        (
            "sample",
            "--model",
            "net",
            "--name",
            "net",
            "--samples-per-class",
            "2",
            "--processes",
            "1",
        ),
        ("report", "--samples", "net", "--name", "net"),
    ):
        code, said = place.run(*arguments)
        assert code == 0, said
    out = place.export("samples/net")
    store = place.folder / "store"
    (model,) = (store / "models/net").iterdir()
    (samples,) = (store / "samples/net").iterdir()
    for folder in (model, samples, out):
        assert claims(folder) == {}
        assert summary(folder).get("license", "") == (stated[1] if stated else "")
        text = texts(folder)["README.md"]
        assert ("Drawn by Ann." if stated else "are not stated") in text
    for report in [*(store / "reports/net").glob("*/report.html"), out / "report.html"]:
        page = report.read_text()
        assert not GOOGLES.search(page)
        assert page.count("Source drawings: Drawn by Ann.") == (2 if stated else 0)
    assert np.load(next(out.glob("numpy_bitmap/*.npy"))).shape[1] == 784
