"""A store that others wrote: nothing in it stops what is about the rest, or lasts for ever."""

import dataclasses
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from flows.cli import run_command_line
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import (
    FileEntry,
    InputRef,
    Manifest,
    artifact_digest,
    digest_of,
    manifest_to_json,
)

# Minutes of orders, commands and servers: for the whole run.
pytestmark = pytest.mark.slow

CONTENT = b"content"
LIMIT_SEC = 60
ESCAPE = "\x1b[2J\x1b]0;owned\x07"


def make(kind="models", *, name="net", spec=None, inputs=(), files=(), summary=None) -> Manifest:
    spec = {"seed": 0} if spec is None else spec
    return Manifest(
        kind=kind,
        name=name,
        digest=artifact_digest(kind, spec, tuple(inputs)),
        spec=spec,
        inputs=tuple(inputs),
        files=tuple(files),
        summary=summary or {},
    )


def ref(manifest: Manifest, role="dataset") -> InputRef:
    return InputRef(role=role, kind=manifest.kind, name=manifest.name, digest=manifest.digest)


def publish(store: Store, manifest: Manifest) -> Manifest:
    """Publish an artifact with one file of CONTENT."""
    entry = FileEntry(path="file", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    manifest = dataclasses.replace(manifest, files=(entry,))
    store.put(f"{manifest.prefix}/file", CONTENT)
    return store.publish(manifest)


def plant(store: Store, manifest: Manifest, **changes: Any) -> str:
    """Put an artifact as somebody else might: other fields, and a checksum that holds."""
    raw = json.loads(manifest_to_json(manifest)) | changes
    raw.pop("checksum")
    try:
        raw["checksum"] = digest_of(raw)
    except ValueError:  # NaN
        raw["schema_version"] = 1
    return plant_text(store, manifest, json.dumps(raw))


def plant_text(store: Store, manifest: Manifest, text: str) -> str:
    store.put(f"{manifest.prefix}/file", CONTENT)
    store.put(f"{manifest.prefix}/manifest.json", text.encode())
    store.add_ref(manifest.kind, manifest.name, manifest.digest)
    return manifest.prefix


@pytest.fixture
def store(tmp_path) -> Store:
    """A store with a good model and what was made of it."""
    store = open_store(str(tmp_path / "store"))
    model = publish(store, make(name="good"))
    publish(store, make("samples", name="drawn", inputs=[ref(model, "model")]))
    return store


@pytest.fixture
def ask(store, tmp_path, capsys, caplog, monkeypatch):
    """Return a function that runs a command on the store and returns its code and all it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> tuple[int, str]:
        caplog.clear()
        signal.alarm(LIMIT_SEC)  # which ends the tests: no command may wait for ever
        code = run_command_line([*arguments, "--store", store.url])
        signal.alarm(0)
        said = "".join(capsys.readouterr()) + "".join(
            record.getMessage() for record in caplog.records
        )
        return code, said

    return run


ENTRY = {"path": "file", "bytes": 7, "sha256": hashlib.sha256(CONTENT).hexdigest()}
WRONG_FIELDS = {
    "bytes is a text": {"files": [ENTRY | {"bytes": "7"}]},
    "bytes is negative": {"files": [ENTRY | {"bytes": -7}]},
    "bytes is true": {"files": [ENTRY | {"bytes": True}]},
    "bytes is a fraction": {"files": [ENTRY | {"bytes": 7.0}]},
    "bytes is NaN": {"files": [ENTRY | {"bytes": float("nan")}]},
    "bytes is endless": {"files": [ENTRY | {"bytes": float("inf")}]},
    "bytes is huge": {"files": [ENTRY | {"bytes": 10**40}]},
    "bytes is missing": {"files": [{"path": "file", "sha256": ENTRY["sha256"]}]},
    "rows is a text": {"files": [ENTRY | {"rows": "2"}]},
    "rows is negative": {"files": [ENTRY | {"rows": -1}]},
    "rows is true": {"files": [ENTRY | {"rows": True}]},
    "split is a number": {"files": [ENTRY | {"split": 3}]},
    "sha256 is no digest": {"files": [ENTRY | {"sha256": "x"}]},
    "path leads up": {"files": [ENTRY | {"path": "../../../refs/file"}]},
    "path leads away": {"files": [ENTRY | {"path": "/etc/passwd"}]},
    "path is a number": {"files": [ENTRY | {"path": 7}]},
    "path is empty": {"files": [ENTRY | {"path": ""}]},
    "files is a mapping": {"files": {"file": 7}},
    "a file is a text": {"files": ["file"]},
    "spec is a list": {"spec": []},
    "summary is a text": {"summary": "none"},
    "splits are texts": {"summary": {"splits": {"train": "7"}}},
    "splits are negative": {"summary": {"splits": {"train": -7}}},
    "drawings are NaN": {"summary": {"num_drawings": float("nan")}},
    "source files are numbers": {"summary": {"source_files": [1]}},
    "an input has no digest": {"inputs": [{"role": "x", "kind": "models", "name": "net"}]},
    "an input leads out": {
        "inputs": [{"role": "x", "kind": "models", "name": "../..", "digest": "0" * 64}]
    },
    "an input is of no kind": {
        "inputs": [{"role": "x", "kind": "gifts", "name": "net", "digest": "0" * 64}]
    },
    "name is a number": {"name": 7},
    "kind is a list": {"kind": []},
    "version is a text": {"schema_version": "2"},
}


@pytest.mark.parametrize("changes", WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_manifest_of_other_fields_is_not_pulled_and_stops_nothing_of_the_rest(
    store, ask, tmp_path, changes
):
    manifest = make(spec={"seed": 9})
    prefix = plant(store, manifest, **changes)
    target = tmp_path / "target"
    code, said = ask("push", f"models/{manifest.digest}", "--to", str(target))
    assert (code, prefix in said) == (2, True), said
    assert not list(target.rglob("*")), "nothing may be left of it"
    check_rest(ask, prefix)


def check_rest(ask, prefix: str) -> None:
    """Check that one artifact is named and the others are served."""
    code, said = ask("ls")
    assert (code, prefix in said) == (0, True), said
    assert "models/good@" in said
    code, said = ask("verify")
    assert (code, prefix in said) == (1, True), said
    assert said.count("holds") == 2
    code, said = ask("gc", "--delete", "--grace-days", "0")
    assert (code, prefix in said, "no artifact can go" in said) == (1, True, True), said
    assert ask("pin", "good")[0] == 0
    assert ask("lineage", "drawn")[0] == 0
    assert ask("build", "--classes", "sun", "--max-per-class", "20", "--quiet")[0] == 0
    assert "datasets/doodles@" in ask("ls")[1]


TEXTS = {
    "empty": "",
    "cut off": '{"kind": "models", "na',
    "nested": "[" * 100_000,
    "nested spec": '{"schema_version": 1, "spec": ' + '{"a":' * 90_000 + "1" + "}" * 90_000 + "}",
    "null": "null",
    "number of a million digits": '{"schema_version": ' + "9" * 1_000_000 + "}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_manifest_that_is_none_stops_nothing_of_the_rest(store, ask, text):
    check_rest(ask, plant_text(store, make(spec={"seed": 9}), text))


def test_unreadable_manifest_that_nothing_needs_does_not_keep_the_rest(store, ask):
    prefix = plant_text(store, make(spec={"seed": 9}), "{")
    publish(store, make(spec={"seed": 10}))
    old = publish(store, make(name="other", spec={"seed": 2}))
    publish(store, make(name="other", spec={"seed": 1}))
    flags = ("--delete", "--grace-days", "0", "--keep", "1")
    code, said = ask("gc", *flags)
    assert (code, prefix in said, "all others were looked at" in said) == (1, True, True), said
    assert store.find("models", "other", old.digest) is None
    assert store.size(f"{prefix}/manifest.json") == 1


def test_artifact_whose_spec_does_not_give_its_digest_is_not_pulled(store, ask, tmp_path):
    manifest = publish(store, make(spec={"seed": 9}))
    plant(store, manifest, spec={"seed": 10})
    target = tmp_path / "target"
    code, said = ask("push", "net", "--to", str(target))
    assert (code, "do not give its digest" in said) == (2, True), said
    made = publish(store, make("samples", name="new", inputs=[ref(manifest, "model")]))
    code, said = ask("push", f"samples/{made.name}", "--to", str(target))
    assert (code, manifest.prefix in said) == (2, True), said
    assert not list(target.rglob("manifest.json"))
    assert run_command_line(["pull", "good", "--origin", store.url, "--store", str(target)]) == 0


@pytest.mark.parametrize("odd", ["pipe", "device", "folder", "link out", "link to itself"])
@pytest.mark.parametrize("file", ["manifest.json", "file"])
def test_what_is_no_file_stops_nothing_of_the_rest(store, ask, tmp_path, odd, file):
    manifest = publish(store, make(spec={"seed": 9}))
    path = store.local_path(f"{manifest.prefix}/{file}")
    path.unlink()
    if odd == "pipe":
        os.mkfifo(path)
    elif odd == "device":
        path.symlink_to("/dev/zero")
    elif odd == "folder":
        path.mkdir()
        (path / "inside").write_bytes(CONTENT)
    elif odd == "link out":
        (tmp_path / "outside").write_bytes(CONTENT)
        path.symlink_to(tmp_path / "outside")
    else:
        path.symlink_to(path)
    code, said = ask("verify")
    # Where a manifest is a folder, there is no artifact.
    is_there = (file, odd) != ("manifest.json", "folder")
    is_told = manifest.digest[:12] in said
    assert (code, is_told, said.count("holds")) == (int(is_there), is_there, 2), said
    assert "models/good@" in ask("ls")[1]
    assert ask("lineage", "drawn")[0] == 0
    assert ask("gc")[0] in (0, 1, 2)
    assert ask("push", "drawn", "--to", str(tmp_path / "target"))[0] == 0


def test_lineage_of_a_diamond_of_thirty_levels_ends(store, ask, tmp_path):
    below = [publish(store, make("datasets", name=f"bottom-{side}", spec={})) for side in "ab"]
    for level in range(30):
        inputs = [ref(each, role) for each, role in zip(below, ("one", "other"), strict=True)]
        below = [
            publish(store, make(name=f"level-{level}-{side}", spec={"s": side}, inputs=inputs))
            for side in "ab"
        ]
    started = time.monotonic()
    for command in ("lineage level-29-a", "lineage bottom-a", "show level-29-a", "gc", "verify"):
        code, said = ask(*command.split())
        assert (code, len(said) < 5_000_000) == (1 if command == "verify" else 0, True), command
    assert ask("push", "level-29-a", "--to", str(tmp_path / "target"))[0] == 0
    assert time.monotonic() - started < 30


def test_artifact_that_is_made_of_itself_is_named(store, ask, tmp_path):
    one, other = make(name="one", spec={"a": 1}), make(name="other", spec={"a": 2})
    for each, below in ((one, other), (other, one)):
        plant(store, each, inputs=[dataclasses.asdict(ref(below))])
    for command in ("lineage one", f"push one --to {tmp_path / 'target'}"):
        code, said = ask(*command.split())
        assert (code, "is among its own inputs" in said) == (2, True), said
    assert ask("gc")[0] == 0


@pytest.mark.slow
def test_manifest_of_a_hundred_thousand_files_ends(store, ask):
    manifest = make(spec={"seed": 9})
    sha256 = ENTRY["sha256"]
    files = ",".join(
        f'{{"path": "data/{n}", "bytes": 7, "sha256": "{sha256}"}}' for n in range(100_000)
    )
    raw = json.loads(manifest_to_json(dataclasses.replace(manifest, schema_version=1)))
    raw |= {"schema_version": 1, "files": []}
    text = json.dumps(raw).replace('"files": []', f'"files": [{files}]')
    plant_text(store, manifest, text)
    for command in ("ls", "show net", "lineage net", "verify", "gc"):
        started = time.monotonic()
        code, said = ask(*command.split())
        assert code == (1 if command == "verify" else 0), command
        assert time.monotonic() - started < LIMIT_SEC, command
        assert "models/net@" in said or command in ("show net", "gc"), said
        assert len(said) < 100_000, command


def test_names_are_printed_without_what_a_terminal_obeys(store, ask):
    named = make(
        spec={"classes": [f"cat{ESCAPE}"]},
        inputs=[InputRef(role=f"r{ESCAPE}", kind="source", name=f"far{ESCAPE}", digest="sha256:0")],
        summary={"class_names": [f"cat{ESCAPE}"], f"key{ESCAPE}": "\udc80 \u202e"},
    )
    publish(store, named)
    for command in (
        "ls",
        "show net",
        "lineage net",
        "verify",
        "gc",
        "diff net good",
        "show nothing",
    ):
        for flag in ((), ("--json",)):
            code, said = ask(*command.split(), *flag)
            assert not set(said) & set("\x1b\x07\u202e\udc80"), (command, said)
            assert code in (0, 2), said


def test_name_that_no_store_has_is_told_without_what_a_terminal_obeys(store, ask):
    folder = Path(store.url, "models", f"x{ESCAPE}")
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    for command in ("ls", "verify", "gc", "show good"):
        code, said = ask(*command.split())
        assert (code, r"models/x\x1b[2J" in said, ESCAPE[0] in said) == (2, True, False), said


def test_pin_that_is_none_is_named_and_the_others_hold(store, ask):
    store.put("pins/junk", b"?")
    store.put("pins/models/net.json", b"{}")
    store.put("pins/models/good/xyz.json", b"[]")
    assert ask("pin", "good")[0] == 0
    code, said = ask("gc", "--delete", "--grace-days", "0")
    assert code == 0, said
    for path in ("pins/junk", "pins/models/net.json", "pins/models/good/xyz.json"):
        assert f"{path} is not the pin of" in said
