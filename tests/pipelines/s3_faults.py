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
FAULTS = (BUSY, CUT, LOST)


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
        if fault == CUT:
            return
        status, headers, content = self._ask(body)
        if fault != LOST:
            self._answer(status, headers, content)

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

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def log_message(self, *_) -> None:
        """Say nothing."""
