"""Commands as a person calls them: what they refuse, how they say it, what they load."""

import dataclasses
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.cli import COMMANDS, FORMER_COMMANDS, FORMER_OPTIONS, run_command_line
from flows.stages.build import BuildParams, dataset_work, source_names
from flows.stages.chain import ChainParams
from model.network.config import DEFAULT_GUIDANCE
from pipelines.catalogue import class_entry
from pipelines.dataset.spec import DatasetSpec, spec_from_json
from pipelines.sources.doodles.make import google_npy
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import FileEntry, Manifest, artifact_digest

HEAVY = ("torch", "apache_beam", "tensorflow", "prefect", "pyarrow")


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from flows.cli import run_command_line; run_command_line(['--help']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_help_takes_less_than_half_a_second_of_a_processor():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        command = [str(Path(sys.executable).with_name("sketchmill")), "--help"]
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    assert min(seconds) < 0.5, seconds


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command, capsys):
    assert run_command_line([command, "--help"]) == 0
    assert "--store" in capsys.readouterr().out


def help_of(command: str, capsys) -> str:
    assert run_command_line([command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("former", FORMER_COMMANDS)
def test_former_commands_work_and_are_not_shown(former, capsys):
    assert help_of(former, capsys) == help_of(FORMER_COMMANDS[former], capsys)
    run_command_line(["--help"])
    assert f" {former} " not in capsys.readouterr().out


@pytest.mark.parametrize("command", FORMER_OPTIONS)
@pytest.mark.parametrize("written", ["{} x", "{}=x"])
def test_former_options_mean_present_ones_and_are_not_shown(command, written, capsys):
    for former, present in FORMER_OPTIONS[command].items():
        shown = help_of(command, capsys).split()
        assert present in shown, present
        assert former not in shown, former
        said = []
        for option in (former, present):
            code = run_command_line([command, *written.format(option).split(), "--unknown"])
            said.append((code, capsys.readouterr().err))
        assert said[0] == said[1], former


def test_unknown_class_is_refused_with_the_nearest_names(capsys):
    assert run_command_line(["build", "--classes", "bee,pinguin"]) == 2
    assert "penguin" in capsys.readouterr().err


def test_two_class_lists_at_once_are_refused(capsys, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("bee\n")
    code = run_command_line(["build", "--classes", "bee", "--classes-file", str(classes)])
    assert code == 2
    assert "not both" in capsys.readouterr().err


def test_unknown_artifact_is_refused_with_the_names_there(capsys, tmp_path):
    assert run_command_line(["train", "--dataset", "nothing", "--store", str(tmp_path)]) == 2
    assert "no complete artifact 'nothing'" in capsys.readouterr().err


def test_classes_prints_the_whole_catalogue_as_json(capsys):
    assert run_command_line(["classes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["classes"]
    assert len(rows) == 345
    assert sum(row["num_drawings"] for row in rows) == 50_426_266
    assert {"name": "tent", "tfds_id": 308}.items() <= rows[308].items()


def test_tfds_ids_become_names():
    params = BuildParams(classes=("bee", "tfds:309"))
    assert source_names(params) == ("bee", "The Eiffel Tower")


def test_names_come_from_the_source_and_the_preset():
    params = ChainParams(source="/data/numpy_bitmap", preset="small")
    assert (params.dataset_name, params.model_name) == ("numpy-bitmap", "numpy-bitmap-small")


def test_doctor_finds_a_local_store_fit(capsys, tmp_path):
    assert run_command_line(["doctor", "--json", "--store", str(tmp_path)]) == 0
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert all(finding["is_ok"] for finding in findings if finding["is_required"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# Prefect's client asks a server that does not answer five times more.
HASTY = {"PREFECT_CLIENT_MAX_RETRIES": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("", 2, "PREFECT_API_URL names no server"),
        ("http://127.0.0.1:9/api", 1, "no Prefect server"),
    ],
    ids=["none", "down"],
)
def test_deploy_says_that_there_is_no_server(tmp_path, url, code, words):
    """Without a URL Prefect would start a server, deploy to it and end it again."""
    command = "from flows.cli import main; main(['deploy', '--store', 'store'])"
    done = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path)} | HASTY,
    )
    assert done.returncode == code
    assert words in done.stderr


@pytest.fixture
def published(tmp_path) -> str:
    """A store with one small artifact."""
    store = open_store(str(tmp_path))
    content = b"weights"
    manifest = Manifest(
        kind="models",
        name="cats",
        digest=artifact_digest("models", {"a": 1}, ()),
        spec={"a": 1},
        files=(
            FileEntry(path="w", bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),
        ),
    )
    store.put(f"{manifest.prefix}/w", content)
    store.publish(manifest)
    return str(tmp_path)


def answer(capsys, *arguments: str) -> dict:
    assert run_command_line([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_ls_lists_what_is_complete(published, capsys):
    rows = answer(capsys, "ls", "--store", published)["artifacts"]
    assert [(row["kind"], row["name"], row["bytes"]) for row in rows] == [("models", "cats", 7)]


def test_verify_exits_with_1_and_names_a_damaged_file(published, capsys, tmp_path):
    assert answer(capsys, "verify", "cats", "--store", published)["problems"]
    (path,) = tmp_path.rglob("w")
    path.write_bytes(b"weighty")
    assert run_command_line(["verify", "cats", "--store", published]) == 1
    assert "w: " in capsys.readouterr().out


def test_gc_is_a_dry_run_unless_told_otherwise(published, capsys, tmp_path):
    found = answer(capsys, "gc", "--grace-days", "0", "--keep", "0", "--store", published)
    assert found["deleted"] is False
    assert len(list(tmp_path.rglob("manifest.json"))) == 1


def test_push_copies_to_another_store(published, capsys, tmp_path):
    other = str(tmp_path / "other")
    answer(capsys, "push", "models/cats", "--to", other, "--store", published)
    assert answer(capsys, "show", "cats", "--store", other)["name"] == "cats"


def test_every_field_of_a_dataset_spec_can_be_said_on_the_command_line(capsys):
    fields = {field.name for field in dataclasses.fields(DatasetSpec)}
    told = {field.name for field in dataclasses.fields(BuildParams)}
    # --splits source says that the splits are the source's.
    assert fields - told == {"format_version", "class_names", "split_by"}
    assert run_command_line(["build", "--help"]) == 0
    text = capsys.readouterr().out
    named = fields - {"formats", "class_names", "split_by"}
    options = {f"--{name.replace('_', '-')}" for name in named}
    assert {each for each in options if each not in text} == {"--format-version"}


def test_build_options_reach_the_spec(capsys, tmp_path):
    (tmp_path / "source").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    (tmp_path / "source" / "sun.npy").write_bytes(google_npy(images))
    plan = answer(
        capsys,
        *("build", "--source", str(tmp_path / "source"), "--classes", "sun", "--dry-run"),
        *("--splits", "train=0.5,test=0.5", "--format", "tfrecord", "--tfrecord-images", "raw"),
        *("--blank", "keep", "--duplicates", "keep", "--store", str(tmp_path / "store")),
    )
    spec = spec_from_json(plan["spec"])
    assert spec.splits == (("train", 0.5), ("test", 0.5))
    assert (spec.tfrecord_images, spec.blank, spec.duplicates) == ("raw", "keep", "keep")


def test_classes_to_sample_are_those_of_the_model_not_only_googles(capsys, tmp_path):
    store = open_store(str(tmp_path))
    digest = artifact_digest("models", {}, ())
    summary = {"class_names": ["Shoe", "bee", "dress"]}
    store.publish(Manifest(kind="models", name="own", digest=digest, spec={}, summary=summary))
    common = ["sample", "--model", "own", "--store", str(tmp_path), "--dry-run"]
    plan = answer(capsys, *common, "--classes", "dress,shoe")
    assert plan["spec"]["class_names"] == ["dress", "Shoe"]
    assert plan["samples"] != answer(capsys, *common)["samples"]
    assert "did you mean 'Shoe'" in run(capsys, *common, "--classes", "shoes", code=2)
    assert "the model has no class 'sun'" in run(capsys, *common, "--classes", "sun", code=2)


@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
def test_a_model_is_guided_as_it_learned_unless_one_says_otherwise(capsys, tmp_path, dropout_p):
    store = open_store(str(tmp_path))
    condition = {"kind": "embedding", "num_classes": 1, "dropout_p": dropout_p}
    spec = {"network": {"condition": condition}}
    digest = artifact_digest("models", spec, ())
    summary = {"class_names": ["bee"]}
    store.publish(Manifest(kind="models", name="own", digest=digest, spec=spec, summary=summary))
    common = ["sample", "--model", "own", "--store", str(tmp_path), "--dry-run"]
    plan = answer(capsys, *common)
    assert plan["spec"]["guidance"] == (DEFAULT_GUIDANCE if dropout_p else 0)
    unguided = answer(capsys, *common, "--guidance", "0")
    assert (unguided["samples"] == plan["samples"]) == (dropout_p == 0)
    if not dropout_p:
        assert "does not support guidance" in run(capsys, *common, "--guidance", "1", code=2)


@pytest.mark.parametrize("command", ["run", "sample", "quota"])
def test_help_says_how_much_is_guided_by_default(capsys, command):
    assert run_command_line([command, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"default the model's own, or {DEFAULT_GUIDANCE:g}; 0 for models that cannot" in words


def run(capsys, *arguments: str, code: int) -> str:
    """Run a command that must end with this code and return what it says on stderr."""
    assert run_command_line(list(arguments)) == code
    return capsys.readouterr().err


@pytest.fixture
def bare_cache(tmp_path, monkeypatch):
    """An empty cache folder, and no bucket of Google's to read from."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SKETCHMILL_QUICKDRAW_URL", "http://127.0.0.1:9/nowhere")
    return tmp_path / "cache"


@pytest.mark.parametrize("command", ["build", "run"])
@pytest.mark.parametrize("source", ["quickdraw", "doodles"])
def test_a_dry_run_neither_fetches_nor_draws(command, source, bare_cache, capsys, tmp_path):
    store = ["--store", str(tmp_path / "store"), "--dry-run"]
    plan = answer(capsys, command, "--source", source, "--classes", "bee,sun", *store)
    assert not bare_cache.exists()
    if command == "build":
        rows = class_entry("bee").num_drawings + class_entry("sun").num_drawings
        assert plan["rows"] == (rows if source == "quickdraw" else 2_400)
        assert plan["estimated_sec"] > 0
        assert (plan["digest"] is None) == (source == "doodles")
    else:
        assert plan["dataset"] == "to be made"


def test_the_plan_of_googles_files_is_that_of_a_copy_of_them(bare_cache, tmp_path):
    from pipelines.dataset.build import dataset_digest
    from pipelines.sources.base import Source, SourceFile

    params = BuildParams(source="quickdraw", classes=("bee",))
    spec, planned = dataset_work(params, plan_only=True)
    entry = class_entry("bee")
    file = SourceFile(
        url="/data/bee.npy",
        format="npy",
        class_name="bee",
        rows=entry.num_drawings,
        bytes=entry.bytes,
        digest=f"sha256:{entry.sha256}",
        layout={"offset": 80, "side": 28, "dtype": "|u1", "repair": ""},
        is_direct=True,
    )
    copy = Source(name="quickdraw", class_names=("bee",), files=(file,))
    assert dataset_digest(spec, planned) == dataset_digest(spec, copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "huge"], "preset 'huge'"),
        (["run", "--set", "colour=1"], "colour"),
        (["run", "--name", "A B"], "is not allowed in a store"),
        (["build", "--name", "A B"], "is not allowed in a store"),
        (["build", "--tfds-slice", "train[a]"], "is not a slice of train"),
        (["build", "--beam=--runner=DaskRunner"], "DaskRunner needs the address of a Dask"),
        (["build", "--cluster", "scheduler"], "needs the address of a Dask scheduler"),
        (["run", "--cluster", "scheduler"], "needs the address of a Dask scheduler"),
        (
            ["build", "--cluster", "tcp://a:1", "--beam=--runner=FlinkRunner"],
            "--cluster tcp://a:1 and --beam=--runner=FlinkRunner name two engines",
        ),
        (["build", "--workers", "0"], "workers must be at least 1"),
        (["build", "--seed", "1.5"], "--seed: expected a whole number, not '1.5'"),
        (["build", "--max-per-class", "10."], "expected a whole number, not '10.'"),
        (["build", "--fraction", "2"], "fraction must be between"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_bad_input_is_refused_before_any_work(
    arguments, message, dry, bare_cache, capsys, tmp_path
):
    more = ["--store", str(tmp_path / "store"), *(["--dry-run"] if dry else [])]
    assert message in run(capsys, *arguments, *more, code=2)
    assert not bare_cache.exists()


def test_a_slice_says_of_what_it_is_one(bare_cache, capsys, tmp_path):
    options = ["--tfds-slice", "train[:500000]", "--store", str(tmp_path / "store"), "--dry-run"]
    plan = answer(capsys, "build", "--source", "quickdraw", *options)
    assert plan["tfds_slice"] == {
        "of": "the whole quickdraw_bitmap",
        "classes": 345,
        "drawings": 50_426_266,
        "positions": [0, 500_000],
    }


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["classes"], ["classes", "--json"]])
def test_reader_that_has_read_enough_is_no_error(arguments):
    command = [str(Path(sys.executable).with_name("sketchmill")), *arguments, "--quiet"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")
