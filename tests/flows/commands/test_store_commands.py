"""The store from the command line: what each command prints and changes."""

import contextlib
import hashlib
import json
import os
import socket
from urllib.parse import quote

import pytest

from flows.cli import run_command_line
from pipelines.store.artifacts import open_store
from pipelines.store.backends import RETRY_CONFIG
from pipelines.store.manifest import FileEntry, InputRef, Manifest, artifact_digest

CONTENT = b"content"


def publish(store, kind, name, *, seed=0, made_of=None) -> Manifest:
    spec, inputs = {"seed": seed}, ()
    if made_of:
        ref = InputRef(role="model", kind=made_of.kind, name=made_of.name, digest=made_of.digest)
        inputs = (ref,)
    digest = artifact_digest(kind, spec, inputs)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    entry = FileEntry(path="file", bytes=len(CONTENT), sha256=sha256, rows=2)
    manifest = Manifest(
        kind=kind, name=name, digest=digest, spec=spec, inputs=inputs, files=(entry,)
    )
    store.put(f"{manifest.prefix}/file", CONTENT)
    return store.publish(manifest)


@pytest.fixture
def url(tmp_path) -> str:
    store = open_store(str(tmp_path / "store"))
    model = publish(store, "models", "net")
    publish(store, "samples", "new", made_of=model)
    return store.url


@pytest.fixture
def ask(url, capsys):
    """Return a function that runs a command and returns its JSON result."""

    def run(*arguments: str, code: int = 0) -> dict:
        assert run_command_line([*arguments, "--store", url, "--json", "--quiet"]) == code
        output = capsys.readouterr().out.splitlines()
        return json.loads(output[-1]) if output else {}

    return run


def test_ls_lists_every_artifact_and_those_that_match(ask):
    assert [row["name"] for row in ask("ls")["artifacts"]] == ["net", "new"]
    assert [row["rows"] for row in ask("ls", "samples/")["artifacts"]] == [2]


def test_show_and_lineage_lead_down_and_up(ask):
    shown = ask("show", "new")
    assert (shown["kind"], shown["spec"]) == ("samples", {"seed": 0})
    assert shown["inputs"][0].startswith("model: models/net@")
    lineage = ask("lineage", "models/net")
    assert "samples/new@" in lineage["made_into"]
    assert "models/net@" in ask("lineage", "new")["made_of"]


def test_verify_fails_on_a_flipped_bit(ask, url):
    assert set(map(tuple, ask("verify")["problems"].values())) == {()}
    store = open_store(url)
    store.put(f"{store.resolve('models', 'net').prefix}/file", b"kontent")
    problems = ask("verify", "net", code=1)["problems"]
    assert list(problems.values()) == [["file: content does not match its SHA-256"]]


READING = [
    "ls",
    "show net",
    "verify",
    "lineage net",
    "diff net new",
    "gc",
    "gc --delete",
    "pin net",
    "unpin net",
    "pull net --origin {store}",
    "push net --to {store}",
    "train --dataset cats",
    "train --dataset cats --dry-run",
    "evaluate --model net",
    "sample --model net",
    "sample --model net --shards 0-1",
    "report --samples new",
    "quota --model net --samples-per-class 2",
    "reproduce new --row 0",
    "complete --model net",
    "classifier --dataset cats",
    "score --model net",
    "export new",
    "export new --dry-run",
]


@pytest.mark.parametrize("command", READING)
def test_a_store_that_is_not_there_is_named_and_not_made(command, tmp_path, capsys):
    store = str(tmp_path / "tpyo")
    assert run_command_line([*command.format(store=store).split(), "--store", store]) == 2
    said = capsys.readouterr().err
    assert said == f"sketchmill: there is no store at {store}: `sketchmill build` makes one\n"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_empty_is_a_store(tmp_path, capsys):
    assert run_command_line(["ls", "--store", str(tmp_path)]) == 0
    assert run_command_line(["verify", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_file_url_is_decoded(host, tmp_path, capsys):
    folder = tmp_path / "my store"
    publish(open_store(str(folder)), "models", "net")
    written = f"file://{host}{quote(str(folder))}"
    assert run_command_line(["ls", "--store", written, "--json"]) == 0
    assert '"name": "net"' in capsys.readouterr().out
    other = f"file://{host}{quote(str(tmp_path / 'my #2? store'))}"
    assert run_command_line(["push", "net", "--store", written, "--to", other, "--quiet"]) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["my #2? store", "my store"]


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("file://server/share", "expected file:///ABSOLUTE/PATH"),
        ("file:///data/x?y=1", "expected file:///ABSOLUTE/PATH"),
        ("file:///data/a#b", "expected file:///ABSOLUTE/PATH"),
        ("s3://bucket/x?region=eu", "its URL has no query"),
        ("gs://bucket/x#1", "its URL has no query"),
        ("", "the store's address is empty"),
    ],
)
def test_an_address_that_would_lead_elsewhere_is_refused(store, message, capsys):
    assert run_command_line(["ls", "--store", store]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_is_no_store(place, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    source = ["--source", str(tmp_path), "--classes", "all"]
    for command in (["ls"], ["pull", "net", "--origin", str(tmp_path)], ["build", *source]):
        assert run_command_line([*command, "--store", str(tmp_path / place)]) == 2
        assert "Traceback" not in (said := capsys.readouterr().err)
        assert said.count("\n") == 1


@pytest.mark.parametrize("store", ["ftp://x", "s3://", "gs:///prefix", "http://host/store"])
def test_url_that_is_no_store_is_refused_in_one_line(store, capsys):
    assert run_command_line(["ls", "--store", store]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{store!r} is not a store: expected a directory, s3://BUCKET/PREFIX" in said


def test_missing_credentials_are_told_in_one_line(capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with closed_port() as port:  # in place of the metadata service of a cloud's machine
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://169.254.169.254.localhost:{port}")
        monkeypatch.setitem(RETRY_CONFIG, "max_retries", 0)
        assert run_command_line(["ls", "--store", "s3://bucket"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said


@contextlib.contextmanager
def closed_port():
    """Yield a port of loopback where nobody answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def truncated(url) -> str:
    """The path of a manifest that has lost its end."""
    store = open_store(url)
    path = f"{store.resolve('models', 'net').prefix}/manifest.json"
    store.put(path, store.get(path)[:-30])
    return path


def test_damaged_manifest_is_named_by_verify_and_does_not_hide_the_others(ask, truncated):
    problems = ask("verify", code=1)["problems"]
    assert "manifest is not JSON" in problems.pop(truncated)[0]
    assert list(problems.values()) == [[]]
    assert [row["name"] for row in ask("ls")["artifacts"]] == ["new"]


def test_gc_sweeps_no_artifact_while_a_manifest_is_damaged(ask, url, truncated, capsys):
    publish(open_store(url), "samples", "new", seed=1)
    found = ask("gc", "--delete", "--grace-days", "0", "--keep", "1", code=1)
    assert (found["unreadable"], found["artifacts"], found["condemned"]) == ([truncated], [], [])


def test_diff_shows_the_field_that_differs(ask, url):
    first = open_store(url).resolve("models", "net")
    second = publish(open_store(url), "models", "net", seed=1)
    found = ask("diff", first.digest, second.digest)
    assert found["spec"] == {"seed": [0, 1]}


@pytest.mark.parametrize("command", ["pin", "unpin", "gc", "doctor"])
def test_dry_run_leaves_the_store_as_it_is(ask, url, command):
    def objects() -> dict:
        return {item.path: item.modified for item in open_store(url).objects("")}

    ask("pin", "net")
    before = objects()
    ask(command, *["net"] * command.endswith("pin"), "--dry-run")
    assert objects() == before


def test_a_damaged_manifest_is_not_called_absent(url, capsys):
    manifest = open_store(url).resolve("models", "net")
    path = f"{manifest.prefix}/manifest.json"
    open_store(url).put(path, b"{")
    assert run_command_line(["show", "net", "--store", url]) == 2
    assert path in capsys.readouterr().err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(url, capsys):
    assert run_command_line(["show", "nothing", "--store", url, "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("sketchmill: nothing in")


def test_gc_deletes_only_when_told_to_and_spares_what_is_pinned(ask, url):
    store = open_store(url)
    old = store.resolve("models", "net")
    publish(store, "models", "net", seed=1)
    store.delete(f"{store.resolve('samples', 'new').prefix}/manifest.json")
    ask("pin", old.digest, "--reason", "a paper")
    assert ask("gc", "--keep", "1", "--grace-days", "0")["artifacts"] == []
    ask("unpin", old.digest)
    assert ask("gc", "--keep", "1", "--grace-days", "0")["artifacts"] == [old.prefix]
    assert store.find("models", "net", old.digest) == old
    assert ask("gc", "--keep", "1", "--grace-days", "0", "--delete")["deleted"]
    assert store.find("models", "net", old.digest) is None


def test_push_and_pull_bring_an_artifact_with_its_inputs(ask, url, tmp_path, capsys):
    other = str(tmp_path / "other")
    assert len(ask("push", "new", "--to", other)["copied"]) == 2
    assert open_store(other).resolve("samples", "new") == open_store(url).resolve("samples", "new")
    third = str(tmp_path / "third")
    assert run_command_line(["pull", "net", "--origin", other, "--store", third, "--quiet"]) == 0
    assert open_store(third).resolve("models", "net").spec == {"seed": 0}
