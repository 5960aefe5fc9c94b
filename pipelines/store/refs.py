"""Refs: which artifact of a name was published last.

refs/<kind>/<name>/<%08d>.json    create-only log of digests; the highest number is "latest"
"""

import json
import random
import re
import time

from pipelines.store.errors import StoreError
from pipelines.store.manifest import KINDS, check_digest, check_slug
from pipelines.store.objects import Objects

# A number that is taken means that another publisher came through; so many in a row do not come.
_MAX_TRIES = 100
_MAX_WAIT_SEC = 1.0

_REF = re.compile(r"[0-9]{8}\.json")


class Refs(Objects):
    """Objects under one root, and the logs of what was published under each name."""

    def add_ref(self, kind: str, name: str, digest: str) -> None:
        """Make `digest` the latest of its name, unless it already is."""
        content = json.dumps({"digest": check_digest(digest)}).encode("ascii")
        for attempt in range(_MAX_TRIES):
            entries = self.ref_entries(kind, name)
            if entries and self.ref_digest(entries[-1]) == digest:
                return
            number = int(_ref_number(entries[-1])) + 1 if entries else 0
            if self.create(f"{_refs_prefix(kind, name)}/{number:08d}.json", content):
                return
            time.sleep(random.uniform(0, min(_MAX_WAIT_SEC, 0.001 * 2**attempt)))
        raise StoreError(
            f"no number is free in {_refs_prefix(kind, name)} of {self.url} after {_MAX_TRIES} "
            "attempts: `sketchmill doctor` says whether the store creates and lists as it must"
        )

    def ref_entries(self, kind: str, name: str) -> list[str]:
        """Return the paths of a name's refs, oldest first."""
        listed = [item.path for item in self.objects(_refs_prefix(kind, name))]
        return [path for path in listed if _REF.fullmatch(path.rsplit("/", 1)[-1])]

    def refs(self, kind: str, name: str) -> list[str]:
        """Return the digests published under a name, oldest first."""
        digests = (self.ref_digest(path) for path in self.ref_entries(kind, name))
        return [digest for digest in digests if digest]

    def ref_digest(self, path: str) -> str | None:
        """Return the digest in a ref; None if the ref was deleted since it was listed."""
        try:
            return check_digest(self.surely(lambda: json.loads(self.get(path)))["digest"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"ref {path} in {self.url} is damaged: delete it ({error})") from error


def check_kind(kind: str) -> None:
    """Raise StoreError unless `kind` is one of the store's."""
    if kind not in KINDS:
        raise StoreError(f"kind {kind!r} is not one of {', '.join(KINDS)}")


def _refs_prefix(kind: str, name: str) -> str:
    check_kind(kind)
    return f"refs/{kind}/{check_slug(name)}"


def _ref_number(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".json")
