"""A proxy on loopback in front of an S3 server that answers badly when told to."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BUSY = "busy"  # 503, nothing done
CUT = "cut"  # connection closed, nothing done
LOST = "lost"  # done, but the answer never arrives
HEAD = "head"  # done, but the connection is closed inside the answer's headers
BODY = "body"  # done, but it is closed inside the answer's body; whole where there is none
OPEN = "open"  # the same, and where the server names no length, nothing tells but the content
FAULTS = (BUSY, CUT, LOST, HEAD, BODY, OPEN)
DENIED = "denied"  # 403 for all that writes, nothing done
FLIPPED = "flipped"  # done, and a bit of the answer's body changes on its way


class Faults:
    """What the proxy does with the next requests, then `forever`; `requests` counts them."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.next: list[str] = []
        self.forever: str | None = None
        self.requests = 0
        self._lock = threading.Lock()
        self.endpoint = ""

    def take(self) -> str | None:
        """Return the fault of one request, None for none."""
        with self._lock:
            self.requests += 1
            return self.next.pop(0) if self.next else self.forever


@contextlib.contextmanager
def faulty(upstream: str) -> Iterator[Faults]:
    """Run a proxy to `upstream` for as long as the block."""
    faults = Faults(upstream)

    class Handler(_Handler):
        pass

    Handler.faults = faults
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        faults.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield faults
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    faults: Faults

    def _forward(self) -> None:
        fault = self.faults.take()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == BUSY:
            self.send_error(503, "Slow Down")
            return
        self.close_connection = True
        if fault == DENIED and self.command not in ("GET", "HEAD"):
            content = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            head = [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))]
            self.wfile.write(self._head(403, head) + content)
            return
        if fault == CUT:
            return
        status, headers, content = self._ask(body)
        if fault == FLIPPED:
            content = content[:-1] + bytes([byte ^ 1 for byte in content[-1:]])
        names = {name.lower() for name, _ in headers}
        if content and "content-length" not in names and fault != OPEN:
            headers = [*headers, ("Content-Length", str(len(content)))]
        answer = self._head(status, headers)
        half = len(answer) + len(content) // 2
        cuts = {LOST: 0, HEAD: len(answer) // 2, BODY: half, OPEN: half}
        self.wfile.write((answer + content)[: cuts.get(fault)])

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = self.faults.upstream
        connection = http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=30)
        try:
            # The signature covers the Host header, so it goes through as it came.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        kept = [
            pair for pair in headers if pair[0].lower() not in ("connection", "transfer-encoding")
        ]
        lines = [f"{self.protocol_version} {status} -", *(": ".join(pair) for pair in kept)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def log_message(self, *_) -> None:
        """Say nothing."""
