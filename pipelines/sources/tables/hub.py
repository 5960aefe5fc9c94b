"""Parquet of a dataset on the Hugging Face Hub as a source, read where it lies.

    hf://datasets/OWNER/NAME[@REVISION][/FOLDER or /FILE.parquet]

The revision, by default the main branch, is resolved to its commit first, so that all is of one
version. Files are read by ranges; their SHA-256 is the Hub's, so that a copy of them has the same
fingerprint. HF_ENDPOINT names another server. A token comes from HF_TOKEN alone; it is sent to the
Hub, not to the servers that the Hub redirects to.
"""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from pipelines.processes.progress import doing
from pipelines.sources.base import BadFileError, Names, Place
from pipelines.sources.files import FileRanges, RemoteError, first_line, is_hidden, remember_secrets
from pipelines.sources.tables.kind import Tables
from pipelines.sources.tables.places import TableFile, parts_of
from pipelines.store.errors import LackError, what_lacks

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_ADDRESS = re.compile(
    r"hf://datasets/(?P<id>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)
# What may stand in a header: a message about anything else would show it.
_TOKEN = re.compile(r"[!-~]+")
_SERVER_ERROR, _TOO_MANY = 500, 429
# Kinds of files that are named where there is no Parquet.
_SHOWN_KINDS = 5


class HubTables(Tables):
    """All Parquet files of a dataset of the Hub, of a folder of it, or one, in order of names."""

    prefix = "hf://"
    endings = ()

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return nothing: such a source is known by its address."""
        del directory, names, image_size, is_known
        return []

    def files(self, place: Place) -> list[TableFile]:
        """Return the files of one commit.

        Raises ValueError if the Hub has no such dataset, BadFileError if this has no Parquet or
        several configurations, LackError without huggingface_hub, RemoteError if the Hub fails.
        """
        folder = _folder_of(place.directory)
        with doing("source", f"asking the Hub for {folder.id}"), _asking(folder):
            commit, found = _list(folder)
        files = {each.path: each for each in found if not is_hidden(each.path)}
        tables = sorted(path for path in files if path.endswith(".parquet"))
        if not tables:
            raise BadFileError(_no_tables(folder, list(files)))
        start = folder.base(commit)
        above = f"{folder.path}/" if folder.path and tables != [folder.path] else ""
        names = parts_of(place.directory, [path.removeprefix(above) for path in tables])
        return [_table_file(start, name, files[above + name], above) for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A folder or file of a dataset: OWNER/NAME, its revision, "" for main, and the path there."""

    id: str
    revision: str
    path: str
    token: str

    def base(self, commit: str) -> str:
        """Return the address of all files of a commit, which the token is sent to."""
        from huggingface_hub import constants

        base = f"{constants.ENDPOINT}/datasets/{self.id}/resolve/{commit}"
        remember_secrets(base, (f"Bearer {self.token}" if self.token else "", ""))
        return base


def _folder_of(address: str) -> _Folder:
    found = _ADDRESS.fullmatch(address.rstrip("/"))
    if found is None:
        raise ValueError(
            f"{address} is no dataset of the Hub: expected hf://datasets/OWNER/NAME, perhaps with "
            "@REVISION and /FOLDER"
        )
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise ValueError("the token (HF_TOKEN) has characters that no token has")
    revision, path = unquote(found["revision"] or ""), unquote(found["path"] or "")
    return _Folder(id=found["id"], revision=revision, path=path, token=token)


def _list(folder: _Folder) -> tuple[str, list["RepoFile"]]:
    """Return the commit of a revision, and the files of it in the folder, or the file."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(token=folder.token or False, library_name="sketchmill")
    info = api.dataset_info(folder.id, revision=folder.revision or None)
    is_file = folder.path.endswith(".parquet")
    above = folder.path.rpartition("/")[0] if is_file else folder.path
    listed = api.list_repo_tree(
        folder.id, above or None, recursive=not is_file, revision=info.sha, repo_type="dataset"
    )
    found = [each for each in listed if isinstance(each, RepoFile)]
    return str(info.sha), [each for each in found if not is_file or each.path == folder.path]


def _table_file(base: str, name: str, found: "RepoFile", above: str) -> TableFile:
    """Return a file of a source; small ones, which are not in LFS, are read for their digest."""
    url = f"{base}/{quote(above + name)}"
    if found.lfs is not None:
        sha256 = found.lfs.sha256
    else:
        sha256 = hashlib.sha256(FileRanges(url).read(0, found.size)).hexdigest()
    return TableFile(url=url, name=name, bytes=found.size, digest=f"sha256:{sha256}")


def _no_tables(folder: _Folder, paths: Sequence[str]) -> str:
    where = f"hf://datasets/{folder.id}{f'/{folder.path}' if folder.path else ''}"
    kinds = Counter(PurePosixPath(path).suffix or PurePosixPath(path).name for path in paths)
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN_KINDS))
    return (
        f"{where} has no Parquet files, only {shown or 'nothing'}: download it, `hf download "
        f"{folder.id} --repo-type dataset --local-dir DIR`, and give the folder as the source; or "
        f"the Hub's own Parquet of it, if there is any: hf://datasets/{folder.id}@refs/convert/parquet"
    )


@contextlib.contextmanager
def _asking(folder: _Folder) -> Iterator[None]:
    """Say in one line what the Hub answered, or that its library is not here."""
    where = f"hf://datasets/{folder.id}"
    try:
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise LackError(f"{where} cannot be read: {what_lacks(error) or error}") from error
    hub = f"the Hub at {constants.ENDPOINT}"
    try:
        yield
    except errors.HFValidationError:
        raise ValueError(f"{where}: no dataset of the Hub has such a name") from None
    except errors.OfflineModeIsEnabled:
        raise ValueError(
            f"HF_HUB_OFFLINE is set, so {where} cannot be read: unset it, or give a folder with a copy"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else _SERVER_ERROR
        if status >= _SERVER_ERROR or status == _TOO_MANY:
            raise RemoteError(f"{hub} fails ({status}): run it again later") from None
        raise ValueError(f"{hub} answers {status}: {_refused(error, folder)}") from None
    except (errors.HTTPError, ConnectionError) as error:
        said = first_line(error).replace(folder.token or "\0", "<token>")
        raise RemoteError(
            f"cannot reach {hub} ({said}): check the connection, the proxy and HF_ENDPOINT"
        ) from None


def _refused(error: Exception, folder: _Folder) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return f"the dataset {folder.id} has no revision {folder.revision!r}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the dataset {folder.id} has no folder {folder.path!r}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the dataset {folder.id} is gated: accept its conditions on its page, and set HF_TOKEN"
        )
    return (
        f"it has no dataset {folder.id}, or does not show it "
        f"{'to the token in HF_TOKEN' if folder.token else 'without a token: set HF_TOKEN'}"
    )
