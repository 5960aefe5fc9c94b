"""Any sequence of operations on a store gives what a dict gives."""

import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from store_cases import FILES, manifest_of, put_files

from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest

# Few names, so that operations meet; one is a directory of another in part only.
PATHS = st.sampled_from(["a", "b/c", "b/d", "b/d2/e", "ab/c", "b.c", "f g/h"])
CONTENTS = st.binary(max_size=20)
SEEDS = st.integers(0, 3)


class StoreMachine(RuleBasedStateMachine):
    """Runs the same operations on a store and on a dict and compares."""

    url = "memory://"
    manifests = Bundle("manifests")

    def __init__(self) -> None:
        super().__init__()
        self.store = open_store(self.url)
        self.model: dict[str, bytes] = {}
        self.complete: dict[str, Manifest] = {}
        self.log: list[str] = []

    @rule(path=PATHS, content=CONTENTS)
    def put(self, path, content):
        self.store.put(path, content)
        self.model[path] = content

    @rule(path=PATHS, content=CONTENTS)
    def create(self, path, content):
        assert self.store.create(path, content) == (path not in self.model)
        self.model.setdefault(path, content)

    @rule(path=PATHS)
    def delete(self, path):
        self.store.delete(path)
        self.model.pop(path, None)

    @rule(path=PATHS)
    def read(self, path):
        expected = self.model.get(path)
        assert self.store.size(path) == (None if expected is None else len(expected))
        if expected is None:
            with pytest.raises(FileNotFoundError):
                self.store.get(path)
        else:
            assert self.store.get(path) == expected

    @rule(target=manifests, seed=SEEDS)
    def begin(self, seed):
        manifest = manifest_of(spec={"seed": seed})
        put_files(self.store, manifest)
        self.model |= {f"{manifest.prefix}/{path}": content for path, content in FILES.items()}
        return manifest

    @rule(manifest=consumes(manifests))
    def publish(self, manifest):
        assert self.store.publish(manifest) == manifest
        self.complete[manifest.digest] = manifest
        if self.log[-1:] != [manifest.digest]:
            self.log.append(manifest.digest)

    @invariant()
    def lists_what_the_dict_holds(self):
        stored = {item.path: item.bytes for item in self.store.objects()}
        plain = {p: size for p, size in stored.items() if not _is_store_file(p)}
        assert plain == {path: len(content) for path, content in self.model.items()}
        tops = {path.split("/")[0] for path in self.model if "/" in path}
        tops |= {"refs"} if self.log else set()
        assert self.store.list_dirs("") == sorted(tops)

    @invariant()
    def shows_what_was_published(self):
        assert self.store.refs("datasets", "cats") == self.log
        found = {manifest.digest: manifest for manifest in self.store.manifests("datasets")}
        assert found == self.complete
        latest = self.store.latest("datasets", "cats")
        assert (latest.digest if latest else None) == (self.log[-1] if self.log else None)


def _is_store_file(path: str) -> bool:
    return path.startswith("refs/") or path.endswith("/manifest.json")


class DirectoryMachine(StoreMachine):
    """The same on a local directory."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.url = self.folder.name
        super().__init__()

    def teardown(self):
        self.folder.cleanup()


QUICK = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestMemoryStore = StoreMachine.TestCase
TestMemoryStore.settings = QUICK
TestDirectoryStore = pytest.mark.slow(DirectoryMachine.TestCase)
TestDirectoryStore.settings = settings(QUICK, suppress_health_check=[HealthCheck.too_slow])
