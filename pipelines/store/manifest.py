"""Digests, file entries and manifests, shared by all packages. Standard library only.

An artifact is a directory `<kind>/<name>/<digest>/` whose `manifest.json` is written last, so
that its presence means "complete". The digest is the SHA-256 of the canonical JSON of
{"kind", "spec", "inputs"}: equal work has an equal address and is done once. The digest
identifies the request; the SHA-256 of each file in the manifest identifies the result.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# 2: manifests have a checksum.
SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"

Kind = Literal["datasets", "models", "samples", "exports", "reports"]
KINDS: tuple[Kind, ...] = ("datasets", "models", "samples", "exports", "reports")

_CHECKSUM_VERSION = 2

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of `value`, from which digests are computed.

    Keys are sorted, there is no white space, non-ASCII is escaped, NaN is refused. Dataclasses
    are written as objects, tuples as arrays.

    >>> canonical_json({"b": 1, "a": (1, "x")})
    b'{"a":[1,"x"],"b":1}'
    """
    return _canonical(_plain(value))


def digest_of(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, 64 hexadecimal characters."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def slug(name: str) -> str:
    """Return a name that is safe in a path: `[a-z0-9][a-z0-9-]{0,63}`.

    >>> slug("The Eiffel Tower")
    'the-eiffel-tower'

    Raises ValueError if nothing usable is left.
    """
    cleaned = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-")
    if not cleaned:
        raise ValueError(f"name {name!r} has no letter or digit to make a path of")
    return cleaned


def check_slug(name: str) -> str:
    """Return `name` if it may stand in a store path; raise ValueError otherwise."""
    if not _SLUG.fullmatch(name):
        raise ValueError(
            f"name {name!r} is not allowed in a store: use 1 to 64 of a-z, 0-9 and '-', "
            "beginning with a letter or digit"
        )
    return name


def check_digest(text: str) -> str:
    """Return `text` if it is a SHA-256 in lower-case hexadecimal; raise ValueError otherwise."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"expected a digest of 64 hexadecimal characters, found {text!r}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of an artifact. `path` is relative to the manifest, with forward slashes."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRef:
    """An input of an artifact: another artifact, or a source by its content digest.

    `role` says what it served as ("dataset", "model", "source"); `kind` is a store kind or
    "source"; `name` is for people only and does not enter the digest.
    """

    role: str
    kind: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The identity, origin and content of an artifact.

    spec      everything that decides the content (JSON values only)
    inputs    lineage, one step up
    files     every file but the manifest itself
    summary   results by kind: counts, drop reasons, class_names, metrics
    versions  of the program and the libraries that made the bytes
    """

    kind: Kind
    name: str
    digest: str
    spec: Mapping[str, Any]
    inputs: tuple[InputRef, ...] = ()
    files: tuple[FileEntry, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def prefix(self) -> str:
        """The artifact's directory in its store, without a trailing slash."""
        return artifact_prefix(self.kind, self.name, self.digest)

    def ref(self, role: str) -> InputRef:
        """Return the lineage entry of this artifact as an input that serves as `role`."""
        return InputRef(role=role, kind=self.kind, name=self.name, digest=self.digest)

    def input(self, role: str) -> InputRef | None:
        """Return the input that serves as `role`, None if there is none."""
        return next((ref for ref in self.inputs if ref.role == role), None)


def drawings_by_split(manifest: Manifest) -> dict[str, int]:
    """Return the number of drawings of each split that has any, each counted once for all formats.

    An artifact without splits has all drawings under "all".
    """
    if (said := manifest.summary.get("splits")) is not None:
        return {split: rows for split, rows in said.items() if rows}
    rows = Counter[str]()
    for entry in manifest.files:
        if entry.rows is not None:
            rows[entry.split or "all"] += entry.rows
    return dict(rows)


def spec_fields(spec: Any, later: Collection[str]) -> dict[str, Any]:
    """Return the fields of a spec, a dataclass, by name.

    A field of `later` is left out while it has its default: specs from before it was added keep
    their digests.
    """
    return {
        f.name: getattr(spec, f.name)
        for f in dataclasses.fields(spec)
        if f.name not in later or getattr(spec, f.name) != f.default
    }


def artifact_digest(kind: Kind, spec: Mapping[str, Any], inputs: tuple[InputRef, ...]) -> str:
    """Return the digest that addresses the work; names and dates do not enter it."""
    lineage = sorted((ref.role, ref.kind, ref.digest) for ref in inputs)
    return digest_of({"kind": kind, "spec": _plain(spec), "inputs": lineage})


def artifact_prefix(kind: str, name: str, digest: str) -> str:
    """Return `<kind>/<name>/<digest>` after checking each part against its allow-list."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    return f"{kind}/{check_slug(name)}/{check_digest(digest)}"


def manifest_to_json(manifest: Manifest) -> bytes:
    """Return the manifest's file content: indented, sorted, newline at the end.

    Since version 2 it has a field `checksum`, the SHA-256 of the canonical JSON of the rest.
    """
    raw = _plain(manifest)
    if manifest.schema_version >= _CHECKSUM_VERSION:
        raw["checksum"] = digest_of(raw)
    text = json.dumps(raw, sort_keys=True, indent=1, allow_nan=False)
    return text.encode("ascii") + b"\n"


def manifest_from_json(content: bytes) -> Manifest:
    """Read a manifest; raise ValueError saying what is wrong with it.

    Its types are checked, since other programs may have written it. Whether its spec gives
    its digest is not looked at.
    """
    try:
        raw = json.loads(content, parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"manifest is not JSON: {error}") from error
    except RecursionError:
        raise ValueError("manifest is not valid: its JSON is nested too deeply") from None
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise ValueError("manifest lacks schema_version")
    if not isinstance(raw["schema_version"], int):
        raise ValueError(f"manifest has schema_version {raw['schema_version']!r}, no number")
    if raw["schema_version"] > SCHEMA_VERSION:
        raise ValueError(
            f"manifest has schema_version {raw['schema_version']}, this program reads up to "
            f"{SCHEMA_VERSION}: update sketchmill"
        )
    _check_sum(raw)
    try:
        _check_types(raw)
        return Manifest(
            **raw
            | {
                "inputs": tuple(InputRef(**ref) for ref in raw["inputs"]),
                "files": tuple(FileEntry(**entry) for entry in raw["files"]),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"manifest has unexpected or missing fields: {error}") from error


def _check_sum(raw: dict[str, Any]) -> None:
    """Remove the checksum from a manifest; raise ValueError if it does not match."""
    checksum = raw.pop("checksum", None)
    if checksum is None and raw["schema_version"] < _CHECKSUM_VERSION:
        return
    if checksum != hashlib.sha256(_canonical(raw)).hexdigest():
        raise ValueError("manifest does not match its checksum: it is damaged or was edited")


def _check_types(raw: Mapping[str, Any]) -> None:
    """Raise ValueError unless the fields of a manifest have the types of `Manifest`."""
    for name, kind in _FIELDS.items():
        if not isinstance(raw.get(name, kind()), kind):
            raise ValueError(f"manifest has {name} {_brief(raw[name])}, expected a {kind.__name__}")
    artifact_prefix(raw["kind"], raw["name"], raw["digest"])
    for ref in raw["inputs"]:
        _check_texts("input", ref, ("role", "kind", "name", "digest"))
        if ref["kind"] != "source":
            artifact_prefix(ref["kind"], ref["name"], ref["digest"])
    for index, entry in enumerate(raw["files"]):
        if wrong := [name for name, fits in _ENTRY.items() if not fits(entry.get(name))]:
            raise ValueError(f"manifest: file {index} has {wrong[0]} {_brief(entry.get(wrong[0]))}")
    _check_summary(raw.get("summary", {}))


def _check_summary(summary: Mapping[str, Any]) -> None:
    """Raise ValueError unless the summary fields that every command reads are valid."""
    for each in summary.get("source_files", ()):
        _check_texts("source file", each, ("file", "digest"))
    for name in _COUNTS:
        if not _is_counts(summary.get(name, 0)):
            raise ValueError(f"manifest has {name} that are not all whole numbers from 0")


def _check_texts(what: str, found: Mapping[str, Any], names: Sequence[str]) -> None:
    if not all(isinstance(found[name], str) for name in names):
        raise ValueError(f"manifest has the {what} {_brief(found)}, expected texts")


def _is_path(value: object) -> bool:
    """Whether a path stays inside of its artifact; `objects.check_path` is stricter."""
    if not isinstance(value, str) or "\\" in value or "\0" in value:
        return False
    return not {"", ".", ".."}.intersection(value.split("/"))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST  # bool is a subclass of int


def _is_counts(value: object) -> bool:
    """Whether a value is a count, or a mapping of them."""
    return all(map(_is_counts, value.values())) if isinstance(value, dict) else _is_count(value)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


# Of a manifest as it is read; files have a place of their own, for there may be a million.
_FIELDS: Mapping[str, type] = {
    **dict.fromkeys(("kind", "name", "digest"), str),
    **dict.fromkeys(("spec", "summary", "versions"), dict),
    **dict.fromkeys(("inputs", "files"), list),
}
_ENTRY: Mapping[str, Callable[[Any], bool]] = {
    "path": _is_path,
    "bytes": _is_count,
    "sha256": lambda value: isinstance(value, str) and bool(_DIGEST.fullmatch(value)),
    "rows": lambda value: value is None or _is_count(value),
    "split": lambda value: value is None or isinstance(value, str),
}
_COUNTS = ("num_drawings", "splits", "counts", "dropped")
_MOST = 2**63 - 1


def _canonical(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _plain(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into what the json module writes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def artifact_label(manifest: Manifest) -> str:
    """Return `name@digest` for display."""
    return f"{manifest.name}@{manifest.digest[:12]}"


def artifact_entries(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """Return the manifest's entries of these files."""
    return tuple(file_entry(path, content) for path, content in sorted(files.items()))


def file_entry(
    path: str, content: bytes, *, rows: int | None = None, split: str | None = None
) -> FileEntry:
    """Return the manifest's entry of a file."""
    sha256 = hashlib.sha256(content).hexdigest()
    return FileEntry(path=path, bytes=len(content), sha256=sha256, rows=rows, split=split)
