"""Push an artifact to the Hugging Face Hub: verified bytes, one commit, nothing twice.

The artifact is verified before the Hub is asked for anything, and each file again as it is read for
the upload. Large files go first, in batches; they are in no version of the repository until the
commit, which comes last and fails if another one came between. A repeated push uploads what
differs, and deletes the files of the artifact that was there before.
"""

import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.sha import git_hash

from pipelines.hub.failures import saying_what_failed
from pipelines.hub.repository import Bundle, Repository
from pipelines.processes.progress import doing
from pipelines.store.errors import StoreError
from pipelines.store.manifest import MANIFEST_NAME, FileEntry, manifest_from_json

_log = logging.getLogger(__name__)
# Bytes and files in memory at a time; the Hub takes 256 files in a request.
_BATCH_BYTES, _BATCH_FILES = 64 << 20, 256
# What may stand in a header: a message about anything else would show it.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """Result of a push: the page, the commit, files uploaded, files that were there, deleted ones.

    `commit` is "" if the repository held all of it already.
    """

    url: str
    commit: str
    uploaded: tuple[str, ...]
    unchanged: int
    deleted: tuple[str, ...]
    bytes: int
    is_private: bool


def push(bundle: Bundle, repository: Repository, *, token: str, private: bool = False) -> Pushed:
    """Make the repository hold an artifact's files, in one commit that names its digest.

    private  makes a new repository private; without it the default of its owner holds

    Raises StoreError if the artifact is damaged, ValueError if `private` is asked of a repository
    that is public or the token has characters that no token has, and RuntimeError if the Hub
    refuses or cannot be reached. The token is in no message.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError("the token (HF_TOKEN, `hf auth login`) has characters that no token has")
    _check(bundle)
    disable_progress_bars()
    hub_logging.set_verbosity_error()
    with saying_what_failed(repository, token):
        remote = _Remote(HfApi(token=token, library_name="sketchmill"), repository)
        remote.open(private=private)
        return _update(remote, bundle)


def _check(bundle: Bundle) -> None:
    """Raise StoreError if the artifact is damaged."""
    prefix, store = bundle.manifest.prefix, bundle.store
    total = sum(entry.bytes for entry in bundle.manifest.files)
    with doing("verify", bundle.title, total=total):
        if problems := store.damaged(bundle.manifest):
            raise StoreError(
                f"{prefix} is damaged, nothing was pushed: {problems[0]}; {store.remedy(prefix)}"
            )


class _Remote:
    """A repository as it is: its latest commit and its files."""

    def __init__(self, api: HfApi, repository: Repository) -> None:
        self.api, self.repository = api, repository
        self.where = {"repo_id": repository.id, "repo_type": repository.type}
        self.head = ""
        self.is_private = False
        self.files: Mapping[str, RepoFile] = {}

    def open(self, *, private: bool) -> None:
        """Make the repository if there is none, and list it."""
        self.api.create_repo(**self.where, private=private or None, exist_ok=True)
        found = self.api.repo_info(**self.where)
        self.head, self.is_private = found.sha or "", bool(found.private)
        if private and not self.is_private:
            raise ValueError(
                f"{self.repository.url} is there already and public: nothing was pushed; make it "
                "private in its settings, or push without --private"
            )
        listed = self.api.list_repo_tree(**self.where, recursive=True, revision=self.head)
        self.files = {each.path: each for each in listed if isinstance(each, RepoFile)}

    def former_paths(self) -> set[str]:
        """Return the files of the artifact that is there; none if there is another's manifest."""
        if MANIFEST_NAME not in self.files:
            return set()
        with tempfile.TemporaryDirectory() as folder:
            path = self.api.hf_hub_download(
                **self.where, filename=MANIFEST_NAME, revision=self.head, local_dir=folder
            )
            try:
                former = manifest_from_json(Path(path).read_bytes())
            except ValueError:
                return set()
        return {entry.path for entry in former.files} & self.files.keys()


def _update(remote: _Remote, bundle: Bundle) -> Pushed:
    entries = bundle.entries()
    new = [entry for entry in entries if not _is_there(entry, bundle, remote)]
    gone: set[str] = set()
    if any(entry.path == MANIFEST_NAME for entry in new):
        gone = remote.former_paths() - {entry.path for entry in entries}
    commit = ""
    if new or gone:
        deleted = [CommitOperationDelete(path) for path in sorted(gone)]
        commit = _commit([*_uploaded(new, bundle, remote), *deleted], bundle, remote)
    return Pushed(
        url=remote.repository.url,
        commit=commit,
        uploaded=tuple(entry.path for entry in new),
        unchanged=len(entries) - len(new),
        deleted=tuple(sorted(gone)),
        bytes=sum(entry.bytes for entry in new),
        is_private=remote.is_private,
    )


def _is_there(entry: FileEntry, bundle: Bundle, remote: _Remote) -> bool:
    """Return whether the repository has a file: by its SHA-256, or by Git's hash of small ones."""
    found = remote.files.get(entry.path)
    if found is None or found.size != entry.bytes:
        return False
    if found.lfs is not None:
        return found.lfs.sha256 == entry.sha256
    return found.blob_id == git_hash(bundle.read(entry))


def _uploaded(
    entries: Sequence[FileEntry], bundle: Bundle, remote: _Remote
) -> list[CommitOperationAdd]:
    """Upload the large files, which leave memory then; return what the commit adds."""
    added: list[CommitOperationAdd] = []
    total = sum(entry.bytes for entry in entries)
    with doing("push", f"{bundle.title} to {remote.repository.id}", total=total):
        for batch in _batches(entries):
            operations = [CommitOperationAdd(entry.path, bundle.read(entry)) for entry in batch]
            remote.api.preupload_lfs_files(additions=operations, **remote.where)
            added += operations
    return added


def _batches(entries: Sequence[FileEntry]) -> Iterator[list[FileEntry]]:
    batch: list[FileEntry] = []
    for entry in entries:
        size = sum(each.bytes for each in batch) + entry.bytes
        if batch and (size > _BATCH_BYTES or len(batch) == _BATCH_FILES):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def _commit(
    operations: Sequence[CommitOperationAdd | CommitOperationDelete],
    bundle: Bundle,
    remote: _Remote,
) -> str:
    """Commit all at once and return the commit's id; what the Hub notes on the card is logged."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        done = remote.api.create_commit(
            **remote.where,
            operations=operations,
            commit_message=bundle.manifest.prefix,
            parent_commit=remote.head or None,
        )
    for note in notes:
        _log.warning("%s", " ".join(str(note.message).split()))
    return done.oid
