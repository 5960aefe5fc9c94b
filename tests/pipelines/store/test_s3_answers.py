"""Answers of S3 that are cut, or damaged, on their way: asked for again, whatever was asked."""

import json

import obstore
import pytest
from ceph import BUCKET
from s3_faults import BODY, DENIED, FAULTS, FLIPPED
from store_cases import FILES, check_whole, content_of, make, manifest_of

from flows.cli import run_command_line
from pipelines.export.target import FileSink
from pipelines.store.artifacts import Store, StoreError, open_store
from pipelines.store.backends import MAX_ATTEMPTS
from pipelines.store.transfer import copy_artifact

pytestmark = pytest.mark.slow

SMALL, LARGE = bytes(range(256)) * 8, bytes(range(256)) * (9 << 12)  # 9 MiB are two parts


def exported(store: Store, content: bytes) -> bytes:
    with FileSink(store, "exported", "exported") as sink:
        for start in range(0, len(content), 1 << 20):
            sink.write(memoryview(content)[start : start + (1 << 20)])
    return store.get("exported")


def written(store: Store, path: str, content: bytes) -> bytes:
    store.put_chunks(path, [content[:100], content[100:]])
    return store.get(path)


def deleted(store: Store) -> list[str]:
    store.put("gone/x", b"x")
    store.delete("gone/x")
    return store.list_dirs("gone")


def copied(store: Store) -> bytes:
    from pipelines.store.backends import whole

    whole(lambda: obstore.copy(store.backend, "a/small", "copied"))
    return store.get("copied")


# What is asked of a store that has a/small and a/large, and what it must answer.
OPERATIONS = {
    "put": (lambda store: store.put("b", SMALL) or store.get("b"), SMALL),
    "create": (lambda store: store.create("c", SMALL) in (True, False) and store.get("c"), SMALL),
    "create-there": (lambda store: store.create("a/small", b"another"), False),
    "get": (lambda store: store.get("a/small"), SMALL),
    "get-absent": (lambda store: store.size("absent"), None),
    "range": (lambda store: store.get_range("a/small", 3, 100), SMALL[3:103]),
    "view": (lambda store: bytes(store.view("a/large")), LARGE),
    "chunks": (lambda store: b"".join(store.chunks("a/large")), LARGE),
    "size": (lambda store: store.size("a/small"), len(SMALL)),
    "objects": (lambda store: [item.path for item in store.objects("a")], ["a/large", "a/small"]),
    "dirs": (lambda store: [name for name in store.list_dirs("") if name == "a"], ["a"]),
    "delete": (deleted, []),
    "copy": (copied, SMALL),
    "upload": (lambda store: written(store, "d", LARGE), LARGE),
    "upload-small": (lambda store: written(store, "e", SMALL), SMALL),
    "export": (lambda store: exported(store, LARGE), LARGE),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_asked_is_asked_again(faults, fault):
    store = open_store(f"s3://{BUCKET}/answers-{fault}")
    store.put("a/small", SMALL)
    store.put("a/large", LARGE)
    for name, (operation, answer) in OPERATIONS.items():
        before = faults.requests
        assert operation(store) == answer, name
        for number in range(faults.requests - before):
            faults.next = [*[None] * number, fault, fault]
            assert operation(store) == answer, (name, number)
            faults.next = []


def test_answers_that_are_always_cut_are_given_up(faults, monkeypatch):
    monkeypatch.setattr("pipelines.store.backends.time.sleep", lambda _: None)
    store = open_store(f"s3://{BUCKET}/given-up")
    store.put("a/x", b"x")
    faults.forever, before = BODY, faults.requests
    with pytest.raises(obstore.exceptions.BaseError):
        list(store.objects("a"))
    assert faults.requests - before == MAX_ATTEMPTS


def test_what_is_damaged_on_its_way_is_not_called_damaged(faults, capsys):
    url = f"s3://{BUCKET}/on-its-way"
    store = open_store(url)
    made = make(store, kind="samples", name="new")

    def verify() -> tuple[int, list[str]]:
        code = run_command_line(["verify", "--store", url, "--json"])
        problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
        return code, [problem for found in problems.values() for problem in found]

    before = faults.requests
    assert verify() == (0, [])
    for number in range(faults.requests - before):
        faults.next = [*[None] * number, FLIPPED]
        assert verify() == (0, []), number
        faults.next = []
    before = faults.requests
    check_whole(open_store(url))
    for number in range(faults.requests - before):
        faults.next = [*[None] * number, FLIPPED]
        check_whole(open_store(url))
        faults.next = []
    path = f"{made.prefix}/README.md"
    for faults.next in ([FLIPPED], [None, FLIPPED]):
        assert store.read(made, "README.md") == FILES["README.md"]
    target = open_store("memory://")
    before = faults.requests
    copy_artifact(made, store, target)
    for number in range(faults.requests - before):
        faults.next, target = [*[None] * number, FLIPPED], open_store("memory://")
        copy_artifact(made, store, target)
        faults.next = []
        assert content_of(target) == content_of(store), number
    store.put(path, FILES["README.md"][:-1] + b"x")
    assert verify()[1] == ["README.md: content does not match its SHA-256"]
    with pytest.raises(StoreError, match=r"README\.md is damaged.*delete"):
        store.read(manifest_of(kind="samples", name="new"), "README.md")


def test_credentials_that_may_only_read_serve_what_reads(
    faults, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    url = f"s3://{BUCKET}/read-only"
    made = make(open_store(url))
    faults.forever = DENIED
    for command in ("ls", "show cats", "pull cats --store pulled --origin " + url):
        given = command.split() if "--store" in command else [*command.split(), "--store", url]
        assert run_command_line(given) == 0, capsys.readouterr().err
    assert open_store("pulled").damaged(made) == []
    assert caplog.text.count("may only be read") == 1
    capsys.readouterr()
    for command in ("pin cats", "build --classes bee", "pull cats --origin pulled"):
        assert run_command_line([*command.split(), "--store", url, "--quiet"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"sketchmill: {url} may only be read (AccessDenied): "), said
        assert said.count("\n") == 1
