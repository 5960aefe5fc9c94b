"""One flipped bit in a file of an artifact: no command uses the file, and each says which it is."""

import json
import shutil
from pathlib import Path

import pytest

from flows.cli import run_command_line
from pipelines.export.spec import FORMATS
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = ["num_filters=6", "num_hierarchies=2", "num_resnet=1", "budget_nimg=64", "batch_size=32"]
REPORT = ("report", "--samples", "net")
AUDIT = (*REPORT, "--audit")
JUDGE = ("classifier", "--dataset", "cats", "--samples", "net")
# What is damaged: kind, name and the beginning of the file's path; and who must notice.
CASES = {
    "evaluate-weights": ("models/net/weights", ("evaluate", "--model", "net")),
    "evaluate-config": ("models/net/config", ("evaluate", "--model", "net")),
    "evaluate-shard": ("datasets/cats/data/test", ("evaluate", "--model", "net")),
    "train-shard": ("datasets/cats/data/train", ("train", "--dataset", "cats", "--seed", "1")),
    "sample-weights": ("models/net/weights", ("sample", "--model", "net", "--seed", "1")),
    "sample-config": ("models/net/config", ("sample", "--model", "net", "--seed", "1")),
    "reproduce-samples": ("samples/net/data", ("reproduce", "net", "--row", "0")),
    "reproduce-weights": ("models/net/weights", ("reproduce", "net", "--row", "0")),
    "score-shard": ("datasets/cats/data/test", ("score", "--model", "net")),
    "judge-training": ("datasets/cats/data/train", (*JUDGE, "--name", "new")),
    "judge-weights": ("models/cats-judge/judge", JUDGE),
    "judge-samples": ("samples/net/data", JUDGE),
    "quota-weights": (
        "models/net/weights",
        ("quota", "--model", "net", "--samples-per-class", "1"),
    ),
    "report-evaluation": ("models/net/evaluation", REPORT),
    "report-curve": ("models/net/curve", REPORT),
    "report-samples": ("samples/net/data", REPORT),
    "report-shard": ("datasets/cats/data/test", REPORT),
    "audit-samples": ("samples/net/data", AUDIT),
    "audit-training": ("datasets/cats/data/train", AUDIT),
    "audit-judge": ("models/cats-judge/judge", (*AUDIT, "--classifier", "cats-judge")),
    "export-audit-samples": ("samples/net/data", ("export", "samples/net")),
}
for _format in FORMATS:
    for _kind, _path in (("datasets", "cats"), ("samples", "net")):
        CASES[f"export-{_format}-{_kind}"] = (
            f"{_kind}/{_path}/data/train",
            ("export", f"{_kind}/{_path}", "--format", _format, "--no-audit"),
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A store with a dataset, a model, samples and a judge; nothing is cached."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home / "prefect"))
        patch.setenv("SKETCHMILL_CACHE", str(home / "cache"))
        settings = [part for setting in SMALL for part in ("--set", setting)]
        common = ["--store", str(home / "store"), "--quiet"]
        build = ["build", "--classes", "sun,lightning", "--max-per-class", "60", "--name", "cats"]
        assert run_command_line([*build, *common]) == 0
        train = ["train", "--dataset", "cats", "--name", "net", *settings]
        assert run_command_line([*train, *common]) == 0
        sample = ["sample", "--model", "net", "--samples-per-class", "4", "--name", "net"]
        assert run_command_line([*sample, *common]) == 0
        assert run_command_line(["classifier", "--dataset", "cats", *common]) == 0
    shutil.rmtree(home / "store" / "attempts")
    return home


@pytest.fixture
def store(home, tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "store", tmp_path / "store")
    return open_store(str(tmp_path / "store"))


def run(store: Store, *arguments: str) -> int:
    return run_command_line([*arguments, "--store", store.url, "--json", "--quiet"])


@pytest.mark.parametrize("case", CASES)
def test_damaged_file_is_never_used(store, case, capfd):
    place, command = CASES[case]
    kind, name, path = place.split("/", 2)
    manifest = store.resolve(kind, name)
    flipped = flip_a_bit(store, manifest, path)
    before = artifacts(store)
    assert run(store, *command) != 0
    said = capfd.readouterr().err
    assert f"{flipped} is damaged, it does not match its SHA-256" in said
    assert f"delete {manifest.prefix}" in said
    assert artifacts(store) == before


def test_commands_succeed_where_nothing_is_damaged(store, capfd):
    """The cases above fail for no other reason."""
    for command in sorted({command for _, command in CASES.values()}):
        if command[0] not in ("train", "export"):  # slow ones, with tests of their own
            assert run(store, *command) == 0, (command, capfd.readouterr().err)
            assert json.loads(capfd.readouterr().out.splitlines()[-1])


def flip_a_bit(store: Store, manifest: Manifest, start: str) -> str:
    """Flip a bit in the middle of the first file that begins so; return its path."""
    entry = next(entry for entry in manifest.files if entry.path.startswith(start))
    path = f"{manifest.prefix}/{entry.path}"
    content = bytearray(store.get(path))
    content[len(content) // 2] ^= 1
    store.put(path, bytes(content))
    return path


def artifacts(store: Store) -> set[str]:
    """Return what is published, but for what a command makes of undamaged inputs on its way."""
    kinds = ("datasets", "models", "samples", "exports", "reports")
    return {manifest.prefix for kind in kinds for manifest in store.manifests(kind)}
