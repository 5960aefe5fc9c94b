"""The chain from end to end, at a size that takes seconds."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.cli import run_command_line
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLASSES = "sun,lightning,sea turtle"
# A network that learns little, in seconds; every stage is the real one.
SMALL = ["num_filters=6", "num_hierarchies=2", "num_resnet=1", "budget_nimg=320", "batch_size=32"]


def sketchmill(*arguments: str, home: Path) -> dict:
    """Run a command in a process of its own and return its JSON result."""
    command = [str(Path(sys.executable).with_name("sketchmill")), *arguments, "--json"]
    environment = os.environ | {
        "PREFECT_HOME": str(home / "prefect"),
        "SKETCHMILL_CACHE": str(home / "cache"),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def run_here(home, monkeypatch, capsys):
    """Return a function that runs a command in this process and returns its JSON result."""
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    monkeypatch.setenv("SKETCHMILL_CACHE", str(home / "cache"))

    def run(*arguments: str) -> dict:
        code = run_command_line([*arguments, "--json", "--quiet"])
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def arguments(home) -> list[str]:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    store = ["--store", str(home / "store"), "--max-per-class", "200"]
    return ["run", "--classes", CLASSES, "--samples-per-class", "2", *store, *settings]


@pytest.fixture(scope="module")
def result(arguments, home) -> dict:
    return sketchmill(*arguments, home=home)


def test_chain_ends_in_a_report_with_a_picture_of_each_class(result):
    page = Path(result["report"])
    text = page.read_text()
    assert text.count("data:image/png;base64,") >= 3
    assert "sea turtle" in text
    assert sorted(p.name for p in (page.parent / "pictures").iterdir()) == [
        "lightning.png",
        "sea-turtle.png",
        "sun.png",
    ]


def test_chain_reports_its_numbers(result):
    assert 0 < result["bits_per_dim"] < 8
    assert result["generated"] == 6
    assert set(result["seconds"]) == {"build", "train", "sample", "report"}


def test_second_run_gives_the_same_digests_and_does_nothing(arguments, result, home):
    again = sketchmill(*arguments, home=home)
    for stage in ("dataset", "model", "samples", "report"):
        assert again[stage] == result[stage], stage
    assert again["seconds"] == {}


@pytest.mark.parametrize(
    ("made", "command"),
    [("report", "run"), ("dataset", "build"), ("model", "train"), ("samples", "sample")],
)
def test_the_config_beside_a_manifest_repeats_the_command(
    result, home, run_here, tmp_path, monkeypatch, made, command
):
    folder = Path(result["report"]).parent if made == "report" else Path(result[f"{made}_path"])
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(folder / f"{command}.toml")]
    again = run_here(command, *config, "--store", str(home / "store"))
    key = "samples" if command == "run" else made
    assert again[key] == result[key]
    assert again.get("seconds", {}) == {}


def test_two_chains_at_once_in_one_store_end_in_the_digests_of_one(arguments, result, home):
    """As when two schedules fire together."""
    shared = home / "shared"
    same = [str(shared) if part == str(home / "store") else part for part in arguments]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: sketchmill(*same, home=home), range(2)))
    for stage in ("dataset", "model", "samples", "bits_per_dim"):
        assert {each[stage] for each in both} == {result[stage]}, stage
    assert len({each["report"] for each in both}) == 1
    store = open_store(str(shared))
    manifests = [manifest for kind in KINDS for manifest in store.manifests(kind)]
    assert sorted(each.kind for each in manifests) == ["datasets", "models", "reports", "samples"]
    assert [store.damaged(manifest) for manifest in manifests] == [[]] * 4


def test_machines_draw_ranges_and_the_last_one_publishes(result, home, run_here, tmp_path):
    counts = tmp_path / "counts.csv"
    counts.write_text("class,count\nsun,3\nsea turtle,2\n")
    plan = ["sample", "--model", result["model"], "--store", str(home / "store")]
    plan += ["--counts", str(counts), "--rows-per-shard", "2", "--batch", "2", "--name", "ranges"]
    last = run_here(*plan, "--shards", "2")
    assert (last["missing_shards"], last["is_published"]) == (2, False)
    first = run_here(*plan, "--shards", "0-1")
    assert (first["missing_shards"], first["is_published"]) == (0, True)
    assert run_here(*plan) == {"samples": first["samples"], "name": "ranges", "drawings": 5}
    with pytest.raises(AssertionError, match="the plan has the shards 0-2"):
        run_here(*plan, "--shards", "1-3")


def test_report_with_an_audit_says_what_was_found(result, home, run_here):
    report = ["report", "--samples", result["samples"], "--store", str(home / "store")]
    plain, audited = (run_here(*report, *more) for more in ([], ["--audit"]))
    assert plain["report"] == result["report"] != audited["report"]
    assert "nearest" not in Path(plain["report"]).read_text().lower()
    assert "nearest" in Path(audited["report"]).read_text().lower()


def test_every_file_of_every_artifact_holds_its_hash(result, home):
    store = open_store(str(home / "store"))
    manifests = [manifest for kind in KINDS for manifest in store.manifests(kind)]
    assert {manifest.kind for manifest in manifests} == set(KINDS) - {"exports"}
    for manifest in manifests:
        assert store.damaged(manifest) == [], manifest.prefix


def test_stages_one_by_one_give_the_digests_of_the_chain(result, home, run_here):
    store = ["--store", str(home / "store")]
    built = run_here("build", "--classes", CLASSES, "--max-per-class", "200", *store)
    assert built["dataset"] == result["dataset"]
    drawn = run_here("sample", "--model", "doodles-tiny", "--samples-per-class", "2", *store)
    assert drawn["samples"] == result["samples"]


def test_evaluate_repeats_the_likelihood_of_training(result, home):
    store = ["--store", str(home / "store")]
    found = sketchmill("evaluate", "--model", "doodles-tiny", *store, home=home)
    assert found["bits_per_dim"] == pytest.approx(result["bits_per_dim"], rel=1e-6)


def test_dry_run_says_what_is_there(arguments, result, home):
    plan = sketchmill(*arguments, "--dry-run", home=home)
    assert plan["dataset"] == f"there: {result['dataset']}"
    assert plan["params"]["samples_per_class"] == 2
