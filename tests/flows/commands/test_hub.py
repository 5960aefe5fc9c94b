"""`sketchmill push --hub` against a stand-in of the Hub: what it holds, says and refuses."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard, constants

from flows.cli import run_command_line
from model.shipped import publish_shipped
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parents[1]))

from hub import TOKEN, StandIn, serving

# Its fixtures build a dataset and export it. The warning is of huggingface_hub's own uploads.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]

BUILD = "build --classes bee,sun --name pair --max-per-class 30"
REPO = "datasets/ann/pair"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a store of a dataset, an export of it, and the shipped model."""
    folder = tmp_path_factory.mktemp("made")
    store = str(folder / "store")
    for command in (BUILD, "export datasets/pair --format hf,idx"):
        assert run_command_line([*command.split(), "--store", store, "--quiet"]) == 0
    publish_shipped("tiny-20", open_store(store))
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[StandIn]:
    """The stand-in, for this process; the work is in an empty directory with a token at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose server is another one
    with serving() as found:
        pattern = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        yield found


@pytest.fixture
def push(made, capfd):
    """Return a function that pushes from the store and returns what it printed."""

    def run(ref: str, *arguments: str, code: int = 0, store: Path = made / "store") -> str:
        given = ["push", ref, "--store", str(store), *arguments]
        assert run_command_line(given) == code
        said = capfd.readouterr()
        assert TOKEN not in said.out + said.err
        assert code == 0 or "--debug" in arguments or said.err.count("\n") == 1, said.err
        return said.err if code else said.out

    return run


def resolved(folder: Path, kind, name: str) -> Manifest:
    return open_store(str(folder / "store")).resolve(kind, name)


def test_the_installed_command_pushes_from_an_empty_directory(tmp_path):
    command = str(Path(sys.executable).with_name("sketchmill"))
    (tmp_path / "work").mkdir()

    def run(arguments: str) -> str:
        given = [command, *arguments.split(), "--quiet"]
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        env["HF_HOME"] = str(tmp_path / "home")
        done = subprocess.run(
            given, cwd=tmp_path / "work", env=env, check=True, capture_output=True, text=True
        )
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    with serving() as hub:
        run(BUILD)
        assert f"{hub.url}/{REPO}" in run("push pair --hub ann/pair")
        assert "nothing was sent" in run("push pair --hub ann/pair")
    manifest = resolved(tmp_path / "work", "datasets", "pair")
    assert hub.repos[REPO].commits == ["initial commit", manifest.prefix]
    assert_loads(hub, tmp_path, manifest)
    own = {entry.path: entry.sha256 for entry in manifest.files}
    pushed = {p: hashlib.sha256(c).hexdigest() for p, c in hub.repos[REPO].files.items()}
    changed = {path for path in own if own[path] != pushed[path]}
    assert changed == {"README.md", "croissant.json"}


def assert_loads(hub: StandIn, folder: Path, manifest: Manifest) -> None:
    import datasets

    clone = hub.write(REPO, folder / "clone")
    found = datasets.load_dataset(str(clone), cache_dir=str(folder / "cache"))
    rows = {split: found[split].num_rows for split in found}
    assert rows == {split: n for split, n in manifest.summary["splits"].items() if n}
    assert found["train"].features["label"].names == ["bee", "sun"]
    assert found["train"][0]["image"].size == (28, 28)


def test_an_export_loads_from_the_root_of_its_repository(hub, push, made, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.hub.push._BATCH_FILES", 2)
    push("exports/pair", "--hub", "ann/pair")
    assert_loads(hub, tmp_path, resolved(made, "exports", "pair"))
    data = DatasetCard.load(tmp_path / "clone" / "README.md").data
    assert (data.license, data.size_categories) == ("apache-2.0", ["n<1K"])
    assert data.task_categories == ["image-classification"]
    assert data.tags == ["sketches", "synthetic"]


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # mlcroissant's own
@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # and so is this
def test_croissant_is_1_1_and_describes_the_pushed_files(hub, push, tmp_path):
    import mlcroissant

    push("exports/pair", "--hub", "ann/pair")
    clone = hub.write(REPO, tmp_path / "clone")
    found = mlcroissant.Dataset(str(clone / "croissant.json"))
    assert found.metadata.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.1"
    assert found.metadata.ctx.issues.errors == set()
    assert found.metadata.url == f"{hub.url}/{REPO}"
    assert len(list(found.records("drawings"))) == 60
    for each in json.loads((clone / "croissant.json").read_text())["distribution"]:
        if each["@type"] == "cr:FileObject":
            content = (clone / each["contentUrl"]).read_bytes()
            assert each["sha256"] == hashlib.sha256(content).hexdigest(), each["name"]


def test_a_model_card_has_results_license_and_attribution(hub, push, made, tmp_path):
    push("tiny-20", "--hub", "ann/tiny-20", "--trained-on", "ann/real20", "--private")
    assert hub.repos["models/ann/tiny-20"].private
    card = ModelCard.load(hub.write("models/ann/tiny-20", tmp_path / "clone") / "README.md")
    card.validate()
    assert str(card) in hub.cards
    summary = resolved(made, "models", "tiny-20").summary
    found = {each.dataset_split: each for each in card.data.eval_results}
    assert found["test"].metric_value == summary["test_bits_per_dim"]
    assert found["validation"].metric_value == summary["validation_bits_per_dim"]
    assert {each.metric_type for each in found.values()} == set(card.data.metrics)
    assert card.data.license == "cc-by-4.0"
    assert card.data.datasets == ["ann/real20", "google/quickdraw"]
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert summary["attribution"] in card.text


def test_a_repeated_push_sends_nothing(hub, push):
    push("datasets/pair", "--hub", "ann/pair")
    files, hub.asked = dict(hub.repos[REPO].files), []
    assert "nothing was sent" in push("datasets/pair", "--hub", "ann/pair")
    assert [each for each in hub.asked if not each.startswith("GET")] == ["POST /api/repos/create"]
    assert hub.repos[REPO].files == files


def test_another_artifact_takes_the_place_of_the_first_and_of_nothing_else(hub, push, made):
    push("datasets/pair", "--hub", "ann/pair")
    hub.repos[REPO].files["NOTES.md"] = b"by hand"
    assert "deleted" in push("exports/pair", "--hub", "ann/pair")
    paths = {entry.path for entry in resolved(made, "exports", "pair").files}
    assert set(hub.repos[REPO].files) == paths | {"NOTES.md", ".gitattributes", "manifest.json"}


def test_a_copy_of_the_repository_is_the_artifact(hub, push, made, tmp_path, capfd):
    push("exports/pair", "--hub", "ann/pair")
    manifest = resolved(made, "exports", "pair")
    hub.write(REPO, tmp_path / "store" / manifest.prefix)
    assert run_command_line(["verify", manifest.digest, "--store", str(tmp_path / "store")]) == 0
    assert "holds" in capfd.readouterr().out
    said = push(manifest.digest, "--hub", "ann/pair", store=tmp_path / "store")
    assert "nothing was sent" in said


def test_a_damaged_artifact_is_not_pushed(hub, push, made, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(made / "store", store)
    prefix = resolved(tmp_path, "datasets", "pair").prefix
    shard = min((store / prefix / "data").iterdir())
    shard.write_bytes(b"?" + shard.read_bytes()[1:])
    said = push("datasets/pair", "--hub", "ann/pair", code=2, store=store)
    assert "is damaged, nothing was pushed" in said
    assert shard.name in said
    assert hub.asked == []


@pytest.mark.parametrize("with_token", [True, False])
def test_a_dry_run_lists_what_would_be_pushed(hub, push, monkeypatch, with_token):
    if not with_token:
        monkeypatch.delenv("HF_TOKEN")
    flags = ["--dry-run"] if with_token else []
    plan = json.loads(push("datasets/pair", "--hub", "ann/pair", "--json", *flags))
    assert plan["token"].startswith("found" if with_token else "none found: set HF_TOKEN")
    assert plan["to"] == f"{hub.url}/{REPO}"
    assert {"README.md", "manifest.json", "croissant.json"} < set(plan["files"])
    assert plan["bytes"] == sum(plan["files"].values())
    assert DatasetCard(plan["card"]).data.pretty_name == "pair"
    shown = push("datasets/pair", "--hub", "ann/pair", *flags)
    assert "license: apache-2.0" in shown
    assert hub.asked == []


@pytest.mark.parametrize("flags", [(), ("--debug",)], ids=["", "debug"])
@pytest.mark.parametrize(
    ("status", "fails_at", "message"),
    [
        (401, "/create", "does not know the token"),
        (403, "/create", "does not let this token write to ann/tiny-20"),
        (503, "/create", "fails (503): run it again later"),
        (403, "/lfs", "does not let this token write to ann/tiny-20"),
        (412, "/commit/", "has changed ann/tiny-20 meanwhile"),
        (400, "/commit/", f"refuses: who is Bearer {'<token>'}?"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, push, status, fails_at, message, flags):
    hub.status, hub.fails_at, hub.says = status, fails_at, f"who is Bearer {TOKEN}?"
    said = push("tiny-20", "--hub", "ann/tiny-20", *flags, code=1)
    assert message in said.splitlines()[-1]
    assert ("Traceback" in said) == bool(flags)


def test_a_hub_that_does_not_answer_is_named(hub, push, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = push("tiny-20", "--hub", "ann/tiny-20", code=1)
    assert "cannot reach the Hub at http://127.0.0.1:9" in said


def test_a_public_repository_does_not_become_private(hub, push):
    push("tiny-20", "--hub", "ann/tiny-20")
    said = push("tiny-20", "--hub", "ann/tiny-20", "--private", code=2)
    assert "is there already and public: nothing was pushed" in said


def test_a_token_that_is_none_is_not_shown(hub, push, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY\u00e9")
    said = push("tiny-20", "--hub", "ann/tiny-20", "--debug", code=2)
    assert "characters that no token has" in said
    assert "CANARY" not in said
    assert hub.asked == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tiny-20 --hub tiny", "expected OWNER/NAME, such as ann/tiny"),
        ("tiny-20 --hub datasets/ann/tiny", "expected OWNER/NAME, such as ann/doodles"),
        ("tiny-20 --hub ann/a--b", "Cannot have -- or .."),
        ("tiny-20 --hub ann/tiny --trained-on x", "--trained-on 'x': expected OWNER/NAME"),
        ("datasets/pair --hub ann/pair --trained-on a/b", "--trained-on is of models"),
        ("tiny-20 --hub ann/tiny --to other", "one of them"),
        ("tiny-20", "one of them"),
        ("tiny-20 --to other --private", "go with --hub"),
    ],
)
def test_what_cannot_be_pushed_is_refused(hub, push, arguments, message):
    assert message in push(*arguments.split(), code=2)
    assert hub.asked == []
