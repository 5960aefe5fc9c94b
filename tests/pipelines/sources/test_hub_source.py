"""`sketchmill build --source hf://datasets/OWNER/NAME` against a stand-in of the Hub."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))

import hub as stand_in
from built import Builder, named, parquet_of, some_drawings
from hub import TOKEN, Repo, StandIn, serving

from pipelines.sources import files
from pipelines.sources.registry import open_source
from pipelines.store import errors

LABELS = ["bee", "sun"] * 10
REPO = "datasets/ann/pair"
SOURCE = "hf://datasets/ann/pair"


@pytest.fixture
def hub(monkeypatch) -> Iterator[StandIn]:
    """The stand-in, for this process, of which anybody may read."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(files, "_secrets", {})
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        found.is_open = True
        yield found


@pytest.fixture
def build(tmp_path, monkeypatch, capsys) -> Builder:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def two_splits(images: np.ndarray, folder: str = "") -> dict[str, bytes]:
    return {
        "README.md": b"A card.",
        "pictures.zip": b"PK",
        f"{folder}data/train-00000-of-00001.parquet": parquet_of(images[:20], LABELS),
        f"{folder}data/test-00000-of-00001.parquet": parquet_of(images[20:], LABELS),
    }


def test_a_dataset_of_the_hub_is_read_as_its_copy_is(build, hub, tmp_path):
    images = some_drawings(40)
    hub.repos[REPO] = Repo(False, two_splits(images))
    assert build.drawings(SOURCE) == named(images, LABELS * 2)
    # Its commit is looked up once; all else is of that commit.
    commit = hub.repos[REPO].head
    assert not [asked for asked in hub.asked if "/resolve/" in asked and commit not in asked]
    copy = hub.write(REPO, tmp_path / "copy")
    far, near = (open_source(str(each), None, tmp_path / "cache") for each in (SOURCE, copy))
    assert far.fingerprint == near.fingerprint
    assert build(copy)[1]["dataset"] == build(SOURCE)[1]["dataset"]
    kept = build.manifest(build(SOURCE, "--splits", "source")[1])
    shards = [entry.path for entry in kept.files if entry.path.endswith(".parquet")]
    assert {path.split("/")[-1].partition("-")[0] for path in shards} == {"train", "test"}


def test_a_revision_a_folder_and_a_file_can_be_named(build, hub):
    images = some_drawings(40)
    hub.repos[REPO] = Repo(False, two_splits(images, "simple/") | two_splits(images, "full/"))
    error = build.refused(SOURCE)
    assert "in the folders full/data, simple/data: give one of these" in error
    assert f"such as {SOURCE}/simple/data" in error
    head = hub.repos[REPO].head
    both = named(images, LABELS * 2)
    for source in (f"{SOURCE}/simple", f"{SOURCE}@main/full/data/", f"{SOURCE}@{head}/simple"):
        assert build.drawings(source) == both
    test = f"{SOURCE}/simple/data/test-00000-of-00001.parquet"
    assert build.drawings(test) == named(images[20:], LABELS)
    assert "answers 404: the dataset ann/pair has no revision 'v9'" in build.refused(f"{SOURCE}@v9")
    assert "has no folder 'half'" in build.refused(f"{SOURCE}/half")


def test_a_small_file_that_is_not_in_lfs_has_the_digest_of_its_content(
    build, hub, monkeypatch, tmp_path
):
    images = some_drawings(40)
    monkeypatch.setattr(stand_in, "LARGE", (".npy",))
    hub.repos[REPO] = Repo(False, two_splits(images))
    copy = hub.write(REPO, tmp_path / "copy")
    far, near = (open_source(str(each), None, tmp_path / "cache") for each in (SOURCE, copy))
    assert far.fingerprint == near.fingerprint


def test_the_token_goes_to_the_hub_alone_and_is_never_shown(build, hub, monkeypatch):
    images = some_drawings(40)
    hub.repos[REPO] = Repo(True, two_splits(images))
    hub.is_open = False
    error = build.refused(SOURCE)
    assert "answers 401: it has no dataset ann/pair, or does not show it without a token" in error
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    error = build.refused(SOURCE)
    assert "to the token in HF_TOKEN" in error
    assert "hf_another" not in error
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert build.drawings(SOURCE) == named(images, LABELS * 2)
    # The hosts that the Hub sends us to for large files get no token.
    assert hub.told_others
    assert set(hub.told_others) == {None}
    code, result = build(SOURCE)
    assert code == 0
    assert TOKEN not in str(result)
    stored = (path for path in build.store.rglob("*") if path.is_file())
    assert not [path for path in stored if TOKEN.encode() in path.read_bytes()]


def test_a_dataset_without_parquet_is_refused_and_says_what_it_has(build, hub):
    hub.repos[REPO] = Repo(False, {"README.md": b"x", "a/1.png": b"x", "a/2.png": b"x"})
    error = build.refused(SOURCE)
    assert f"{SOURCE} has no Parquet files, only 2 .png, 1 .md: download it" in error
    assert "`hf download ann/pair --repo-type dataset --local-dir DIR`" in error
    assert f"{SOURCE}@refs/convert/parquet" in error


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://datasets/ann/none", "it has no dataset ann/none, or does not show it"),
        ("hf://ann/pair", "hf://ann/pair is no dataset of the Hub: expected hf://datasets/OWNER"),
        ("hf://datasets/pair", "is no dataset of the Hub"),
        ("hf://datasets/ann/..pair", "no dataset of the Hub has such a name"),
    ],
)
def test_addresses_of_no_dataset_are_refused(build, hub, source, message):
    del hub
    assert message in build.refused(source)


def test_a_hub_that_fails_or_is_not_asked_says_so_in_one_line(build, hub, monkeypatch):
    hub.repos[REPO] = Repo(False, two_splits(some_drawings(40)))
    hub.status = 429
    code, error = build(SOURCE)
    assert (code, error.count("\n")) == (1, 1), error
    assert "fails (429): run it again later" in error
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, error = build(SOURCE)
    assert (code, error.count("\n")) == (1, 1), error
    assert "cannot reach the Hub at http://127.0.0.1:9" in error


def test_without_huggingface_hub_the_extra_is_named(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    find = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: name != "huggingface_hub" and find(name))
    error = build.refused(SOURCE)
    assert f"{SOURCE} cannot be read: this needs huggingface_hub" in error
    assert "pip install 'sketchmill[hub]'" in error
