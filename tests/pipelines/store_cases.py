"""Artifacts to publish and a store that fails on purpose, for the tests of the store."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from pipelines.store.artifacts import Store
from pipelines.store.manifest import KINDS, FileEntry, InputRef, Kind, Manifest, artifact_digest

FILES = {"README.md": b"drawings\n", "data/train-00000.parquet": b"PAR1" * 300}


def manifest_of(
    *,
    kind: Kind = "datasets",
    name: str = "cats",
    spec: dict[str, Any] | None = None,
    files: dict[str, bytes] = FILES,
    inputs: tuple[Manifest, ...] = (),
) -> Manifest:
    """Return the manifest of these files; it depends on nothing else."""
    spec = spec or {"seed": 0}
    refs = tuple(
        InputRef(role=m.kind.removesuffix("s"), kind=m.kind, name=m.name, digest=m.digest)
        for m in inputs
    )
    entries = tuple(
        FileEntry(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), rows=3)
        for path, content in sorted(files.items())
    )
    return Manifest(
        kind=kind,
        name=name,
        digest=artifact_digest(kind, spec, refs),
        spec=spec,
        inputs=refs,
        files=entries,
        summary={"counts": {"train": 3}},
        versions={"sketchmill": "0"},
    )


def put_files(store: Store, manifest: Manifest, files: dict[str, bytes] = FILES) -> None:
    """Write an artifact's files, not its manifest."""
    for path, content in files.items():
        store.put(f"{manifest.prefix}/{path}", content)


def make(store: Store, **options: Any) -> Manifest:
    """Do what every stage does: look, write the files, publish."""
    manifest = manifest_of(**options)
    if found := store.reuse(manifest.kind, manifest.name, manifest.digest):
        return found
    put_files(store, manifest, options.get("files", FILES))
    return store.publish(manifest)


def make_chain(store: Store, seed: int = 0) -> dict:
    """Return a dataset, a model of it and samples of that, all published."""
    dataset = make(store, spec={"seed": seed})
    model = make(store, kind="models", name="net", spec={"seed": seed}, inputs=(dataset,))
    samples = make(store, kind="samples", name="new", spec={"seed": seed}, inputs=(model, dataset))
    return {"datasets": dataset, "models": model, "samples": samples}


def check_whole(store: Store) -> None:
    """Assert what must hold at any moment: refs lead to artifacts, and those are undamaged."""
    for kind in KINDS:
        for name in store.list_dirs(f"refs/{kind}"):
            for digest in store.refs(kind, name):
                assert store.find(kind, name, digest), f"ref to nothing: {kind}/{name}/{digest}"
        for manifest in store.manifests(kind):
            assert store.damaged(manifest) == [], manifest.prefix


class Crash(BaseException):
    """The process ends here."""


OPERATIONS = ("put", "put_chunks", "create", "get", "size", "objects", "list_dirs", "delete")


class StoppedStore(Store):
    """Counts its operations and calls `stop` once before or after the one numbered `number`."""

    number = -1
    is_done = False
    count = 0

    is_dead = False

    def stop(self) -> None:
        """End the process, or let others do something."""
        self.is_dead = True
        raise Crash

    def _step(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        if self.is_dead:  # a killed process tidies nothing up
            raise Crash
        self.count += 1
        is_here = self.count - 1 == self.number
        if is_here and not self.is_done:
            self.stop()
        result = operation(*arguments)
        if is_here and self.is_done:
            self.stop()
        return result


def crash_step(store: Store) -> int:
    """Return how many operations lie between two crashes: more on S3, where each is a request.

    Every operation has its crash in memory and in a directory; SKETCHMILL_FUZZ=1 in the
    environment does the same on S3.
    """
    is_whole = os.environ.get("SKETCHMILL_FUZZ") or not store.url.startswith("s3://")
    return 1 if is_whole else 7


def crashing(store: Store, operation: int, *, is_done: bool) -> StoppedStore:
    """Return the same store, whose operation of this number raises, before or after its effect."""
    made = StoppedStore(store.backend, store.url)
    made.number, made.is_done = operation, is_done
    return made


def paused(store: Store, operation: int, meanwhile: Callable[[], Any]) -> StoppedStore:
    """Return the same store; before its operation of this number somebody does something."""
    made = StoppedStore(store.backend, store.url)
    made.number, made.stop = operation, meanwhile
    return made


def _counted(name: str) -> Callable[..., Any]:
    def operation(self: StoppedStore, *arguments: Any) -> Any:
        return self._step(getattr(super(StoppedStore, self), name), *arguments)

    return operation


for _name in OPERATIONS:
    setattr(StoppedStore, _name, _counted(_name))


def content_of(store: Store) -> dict[str, bytes]:
    """Return all that a store holds, by path, but for the leases of killed processes."""
    listed = [item.path for item in store.objects() if not item.path.startswith("running/")]
    return {path: store.get(path) for path in listed}


def with_file(manifest: Manifest, path: str) -> Manifest:
    """Return the manifest with one more file of this name."""
    entry = FileEntry(path=path, bytes=1, sha256=hashlib.sha256(b"x").hexdigest())
    return dataclasses.replace(manifest, files=(*manifest.files, entry))


def pins(store: Store) -> dict[str, str]:
    """Return the reasons by pinned artifact, as kind/name/digest."""
    paths = [item.path for item in store.objects("pins")]
    return {
        path.removeprefix("pins/").removesuffix(".json"): json.loads(store.get(path))["reason"]
        for path in paths
    }
