"""A store in a container of Azure: what is asked of the server, and what the environment lacks."""

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from flows.cli import run_command_line
from pipelines.store.artifacts import open_store

ACCOUNT = {
    "AZURE_STORAGE_ACCOUNT_NAME": "mill",
    "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"key").decode(),
}


class _Blobs(BaseHTTPRequestHandler):
    """Keeps whole blobs, as Azure does: `If-None-Match: *` is refused where there is one."""

    blobs: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        is_new = self.blobs.setdefault(self.path, content) is content
        is_refused = self.headers["If-None-Match"] == "*" and not is_new
        self._answer(409 if is_refused else 201)

    def do_GET(self):
        found = self.blobs.get(self.path)
        self._answer(404 if found is None else 200, found or b"")

    def _answer(self, code: int, content: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def azure() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Blobs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mill"
        finally:
            server.shutdown()


def test_what_is_there_is_not_created_again_in_a_container(monkeypatch):
    with azure() as endpoint:
        for name, value in (ACCOUNT | {"AZURE_STORAGE_ENDPOINT": endpoint}).items():
            monkeypatch.setenv(name, value)
        store = open_store("az://drawings/store")
        assert [store.create("a/b", content) for content in (b"first", b"second")] == [True, False]
        assert store.get("a/b") == b"first"
    assert list(_Blobs.blobs) == ["/mill/drawings/store/a/b"]


def test_container_without_an_account_is_refused_in_one_line(monkeypatch, capsys):
    for name in (*ACCOUNT, "AZURE_STORAGE_USE_EMULATOR"):
        monkeypatch.delenv(name, raising=False)
    assert run_command_line(["ls", "--store", "az://drawings"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "set AZURE_STORAGE_ACCOUNT_NAME to its name" in said
