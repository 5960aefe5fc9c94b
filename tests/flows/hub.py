"""A stand-in of the Hugging Face Hub on loopback: what a push and a source ask for.

Repositories, listings, uploads by LFS (not Xet), commits and downloads, of large files by ranges
from another host; a `status` is all that it answers if it is set. It keeps every request's path.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub.utils.sha import git_hash

TOKEN = "hf_CANARYcanaryCANARYcanaryCANARYcan"
# An upload's address is signed; anybody may check a card.
OPEN = ("/lfs/", "/api/validate-yaml")
LARGE = (".parquet", ".safetensors", ".png", ".tar", ".npy")


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.parquet lfs\n"})
    commits: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def head(self) -> str:
        return hashlib.sha1("\n".join(self.commits).encode()).hexdigest()


class StandIn:
    """What the Hub holds: repositories by "datasets/OWNER/NAME", and large files by SHA-256."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.status = 0
        self.fails_at = ""
        self.cards: list[str] = []
        self.asked: list[str] = []
        self.says = "no"
        self.is_open = False
        self.told_others: list[str | None] = []

    def write(self, name: str, folder: Path) -> Path:
        """Write a repository's files to a folder, as a clone of it has them."""
        for path, content in self.repos[name].files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, object]:
        """Return status, and JSON or the bytes of a file."""
        self.asked.append(f"{method} {path}")
        if self.status and self.fails_at in path:
            return self.status, {"error": self.says}
        for pattern, act in ROUTES.items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return act(self, content, *found.groups())
        return 404, {"error": f"the stand-in has no {method} {path}"}

    def create(self, content: bytes) -> tuple[int, object]:
        asked = json.loads(content)
        name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
        is_new = name not in self.repos
        if is_new:
            self.repos[name] = Repo(asked.get("visibility") == "private")
        return 200 if is_new else 409, {"url": f"{self.url}/{name}", "error": "it is there"}

    def info(self, _: bytes, name: str) -> tuple[int, object]:
        if (repo := self.repos.get(name)) is None:
            return 404, {"error": "no such repository"}
        return 200, {"id": name.partition("/")[2], "sha": repo.head, "private": repo.private}

    def at_revision(self, content: bytes, name: str, revision: str) -> tuple[int, object]:
        if revision in ("main", self.repos[name].head):
            return self.info(content, name)
        return 404, {"error": "Invalid rev id", "code": "RevisionNotFound"}

    def tree(self, _: bytes, name: str, folder: str | None) -> tuple[int, object]:
        above = "" if folder is None else unquote(folder) + "/"
        files = self.repos[name].files.items()
        found = [self.described(*item) for item in files if item[0].startswith(above)]
        return (200, found) if found else (404, {"error": "no folder", "code": "EntryNotFound"})

    def described(self, path: str, content: bytes) -> dict:
        found = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return found

    def check_card(self, content: bytes) -> tuple[int, object]:
        self.cards.append(json.loads(content)["content"])
        return 200, {"errors": [], "warnings": []}

    def preupload(self, content: bytes, _: str) -> tuple[int, object]:
        asked = json.loads(content)["files"]
        modes = {each["path"]: each["path"].endswith(LARGE) for each in asked}
        return 200, {
            "files": [
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                }
                for path, is_large in modes.items()
            ]
        }

    def batch(self, content: bytes, _: str) -> tuple[int, object]:
        objects = json.loads(content)["objects"]
        for each in objects:
            if each["oid"] not in self.large:
                each["actions"] = {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}
        return 200, {"transfer": "basic", "objects": objects}

    def put(self, content: bytes, sha256: str) -> tuple[int, object]:
        if hashlib.sha256(content).hexdigest() != sha256:
            return 400, {"error": "this is another file"}
        self.large[sha256] = content
        return 200, {}

    def commit(self, content: bytes, name: str) -> tuple[int, object]:
        repo = self.repos[name]
        lines = [json.loads(line) for line in content.splitlines()]
        asked = {key: [e["value"] for e in lines if e["key"] == key] for key in KEYS}
        header = asked["header"][0]
        if header.get("parentCommit") != repo.head:
            return 412, {"error": "another commit came first"}
        repo.files |= {e["path"]: base64.b64decode(e["content"]) for e in asked["file"]}
        repo.files |= {e["path"]: self.large[e["oid"]] for e in asked["lfsFile"]}
        for each in asked["deletedFile"]:
            del repo.files[each["path"]]
        repo.commits.append(header["summary"])
        page = f"{self.url}/{name.removeprefix('models/')}"
        return 200, {"commitUrl": f"{page}/commit/{repo.head}", "commitOid": repo.head}

    def resolve(self, _: bytes, kind: str | None, name: str, path: str) -> tuple[int, object]:
        content = self.repos[f"{kind or 'models'}/{name}"].files.get(unquote(path))
        if content is None:
            return 404, {"error": "no such file"}
        if not path.endswith(LARGE):
            return 200, content
        sha256 = hashlib.sha256(content).hexdigest()
        self.large[sha256] = content
        elsewhere = self.url.replace("127.0.0.1", "localhost")
        return 302, {"error": "elsewhere", "location": f"{elsewhere}/lfs/{sha256}"}

    def get(self, _: bytes, sha256: str) -> tuple[int, object]:
        return 200, self.large[sha256]


KEYS = ("header", "file", "lfsFile", "deletedFile")
NAME = r"((?:dataset|model)s/[^/]+/[^/]+)"
ROUTES = {
    "POST /api/repos/create": StandIn.create,
    "POST /api/validate-yaml": StandIn.check_card,
    f"GET /api/{NAME}": StandIn.info,
    f"GET /api/{NAME}/revision/(.+)": StandIn.at_revision,
    f"GET /api/{NAME}/tree/[0-9a-f]+(?:/(.+))?": StandIn.tree,
    f"POST /api/{NAME}/preupload/main": StandIn.preupload,
    f"POST /api/{NAME}/commit/main": StandIn.commit,
    r"POST /(.+)\.git/info/lfs/objects/batch": StandIn.batch,
    "PUT /lfs/([0-9a-f]+)": StandIn.put,
    "GET /lfs/([0-9a-f]+)": StandIn.get,
    r"(?:GET|HEAD) /(?:(datasets)/)?([^/]+/[^/]+)/resolve/[0-9a-f]+/(.+)": StandIn.resolve,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for the stand-in that its server has."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub: StandIn = self.server.hub  # type: ignore[attr-defined]
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        status, said = hub.answer(self.command, path, content)
        is_known = self.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.headers["Host"].startswith("localhost"):
            hub.told_others.append(self.headers["Authorization"])
        if not (is_known or hub.is_open or path.startswith(OPEN)):
            status, said = 401, {"error": f"who is {self.headers['Authorization']}?"}
        self.send(status, said)

    do_HEAD = do_POST = do_PUT = do_GET

    def send(self, status: int, said: object) -> None:
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if isinstance(said, bytes) and status == 200 and wanted:
            first, last, whole = int(wanted[1]), int(wanted[2]), len(body)
            status, body = 206, body[first : last + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        if isinstance(said, bytes):
            self.send_header("ETag", f'"{git_hash(said)}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        elif status >= 300:
            self.send_header("X-Error-Message", str(said["error"]))  # type: ignore[index]
            self.send_header("X-Error-Code", str(said.get("code", "")))  # type: ignore[attr-defined]
            self.send_header("Location", str(said.get("location", "")))  # type: ignore[attr-defined]
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving() -> Iterator[StandIn]:
    """Yield a stand-in that answers at its `url`."""
    hub = StandIn()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.hub = hub  # type: ignore[attr-defined]
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield hub
        server.shutdown()
