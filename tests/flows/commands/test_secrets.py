"""A password and a token in addresses: no command prints or writes them, and no `ps` shows them."""

import base64
import contextlib
import http.server
import logging
import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.cli import COMMANDS, run_command_line
from flows.stages.build import BuildParams
from pipelines.processes.guard import descendants
from pipelines.sources.doodles.make import google_npy
from pipelines.store.artifacts import open_store
from pipelines.store.backends import RETRY_CONFIG

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import some_drawings

# Minutes of orders, commands and servers: for the whole run.
pytestmark = pytest.mark.slow

CANARY = "CANARY"
AUTHORIZATION = "Basic " + base64.b64encode(f"user:{CANARY}".encode()).decode()
CLASSES = ("bee", "sun")


class Web:
    """A server of files for who knows the password and the token; a `status` is all it answers."""

    def __init__(self) -> None:
        self.files = {
            f"/data/{name}.npy": google_npy(some_drawings(60, seed))
            for seed, name in enumerate(CLASSES)
        }
        self.files["/data/cat.npy"] = b"<html>please sign in</html>" * 9
        self.status = 0
        self.host = ""

    def url(self, path: str = "/data") -> str:
        return f"http://user:{CANARY}@{self.host}{path}?token={CANARY}"


@pytest.fixture
def web(monkeypatch) -> Iterator[Web]:
    """The server, and no patience with it."""
    monkeypatch.setitem(RETRY_CONFIG, "max_retries", 0)
    found = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            content = found.files.get(parts.path, b"")
            known = (self.headers["Authorization"], parts.query)
            is_known = known == (AUTHORIZATION, f"token={CANARY}")
            if found.status or not is_known or not content:
                self.send_response(found.status or (404 if is_known else 403))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            low, high = self.headers["Range"].removeprefix("bytes=").split("-")
            part = content[int(low) : int(high or len(content)) + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {low}-{high}/{len(content)}")
            self.send_header("Last-Modified", self.date_time_string(0))
            self.send_header("ETag", f'"{zlib.crc32(content)}"')
            self.end_headers()
            self.wfile.write(part)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.host = f"127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()


@pytest.fixture
def ask(tmp_path, monkeypatch, capfd, caplog):
    """Return a function that runs a command, looks for the canary, and returns code and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "none")

    def run(*arguments: str) -> tuple[int, str]:
        code = run_command_line(list(arguments))
        said = "".join(capfd.readouterr())
        logged = "".join(map(logging.Formatter().format, caplog.records))
        assert CANARY not in said + logged, said + logged
        assert canaries(tmp_path) == []
        return code, said

    return run


@pytest.fixture(scope="module")
def bees(tmp_path_factory) -> Path:
    """A store with a dataset, to be copied."""
    store = tmp_path_factory.mktemp("bees") / "store"
    build = ["build", "--classes", "bee", "--name", "bees", "--max-per-class", "30"]
    assert run_command_line([*build, "--store", str(store), "--quiet"]) == 0
    return store


def canaries(root: Path) -> list[str]:
    """Return the files below a folder that have the canary in their name or content."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return [str(path) for path in found if CANARY in str(path).upper() or has_canary(path)]


def has_canary(path: Path) -> bool:
    return CANARY.encode() in path.read_bytes().upper()


BUILDS = [
    (),
    ("--dry-run",),
    ("--json",),
    ("--layout", "linked"),
    ("--debug",),
    ("--format", "parquet,tfrecord", "--quiet"),
]


@pytest.mark.parametrize("flags", BUILDS, ids=" ".join)
def test_source_with_secrets_is_built_and_told_nowhere(web, ask, flags):
    code, said = ask("build", "--source", web.url(), "--classes", "bee,sun", *flags)
    assert code == 0, said
    assert "--dry-run" in flags or open_store("store").resolve("datasets", "data")


@pytest.mark.parametrize("layout", ["packed", "linked"])
def test_bad_files_of_a_source_with_secrets_are_named_without_them(web, ask, layout):
    flags = ("--classes", "bee,sun,cat", "--layout", layout, "--on-bad-file", "skip")
    code, said = ask("build", "--source", web.url(), *flags)
    assert code == 0, said
    (bad,) = open_store("store").resolve("datasets", "data").summary["bad_files"]
    assert bad["file"] == "cat.npy"
    assert web.host not in bad["reason"]
    for command in ("show data", "lineage data", "verify", "ls", "export data --format idx"):
        for flag in ((), ("--json",), ("--debug",)):
            assert ask(*command.split(), *flag)[0] == 0, command


@pytest.mark.parametrize("status", [401, 403, 500])
@pytest.mark.parametrize("flags", [(), ("--debug",), ("--json", "--dry-run")], ids=" ".join)
@pytest.mark.parametrize("command", ["build", "run"])
def test_errors_of_a_source_do_not_tell_its_secrets(web, ask, status, flags, command):
    web.status = status
    code, said = ask(command, "--source", web.url(), "--classes", "bee", *flags)
    assert (code, f"http://{web.host}/data/bee.npy cannot be read" in said) == (1, True), said


@pytest.mark.parametrize("flags", [(), ("--debug",)], ids=" ".join)
def test_copy_of_googles_bucket_is_asked_with_secrets_and_told_without(
    web, ask, flags, monkeypatch
):
    monkeypatch.setenv("SKETCHMILL_QUICKDRAW_URL", web.url())
    code, said = ask("build", "--source", "quickdraw", "--classes", "bee", *flags)
    assert (code, "it is not Google's file" in said) == (2, True), said
    monkeypatch.setenv("SKETCHMILL_QUICKDRAW_URL", web.url("/elsewhere"))
    code, said = ask("build", "--source", "quickdraw", "--classes", "bee", *flags)
    assert (code, f"cannot fetch http://{web.host}/elsewhere/bee.npy" in said) == (1, True), said


ARGUMENTS = {
    "complete": "net --dataset drawings.ndjson",
    "diff": "one other",
    "pull": "net --origin {url}",
    "push": "net --to {url}",
    "quota": "--classes bee --samples-per-class 1",
    "reproduce": "samples/new --row 1",
    "run": "--classes bee",
    "build": "--classes bee",
    "classes": "",
    "sources": "",
    "inspect": "{url}",
    "serve": "--class-list birds=missing.txt",
    "deploy": "--class-list birds=missing.txt",
}
ARGUMENTS |= dict.fromkeys(("evaluate", "sample", "report", "classifier", "score", "train"), "")
ARGUMENTS |= dict.fromkeys(("ls", "verify", "gc", "doctor"), "")
ARGUMENTS |= dict.fromkeys(("show", "lineage", "pin", "unpin", "export"), "net")
URLS = (
    f"s3://user:{CANARY}@bucket/store",  # there, and answers 403
    f"s3://user:{CANARY}@bucket/store?token={CANARY}",
    f"http://user:{CANARY}@host/store?token={CANARY}",
    f"http://user:{CANARY}/@host/store",
    f"ftp://user:{CANARY}@host",
    f"file://user:{CANARY}@host/store?token={CANARY}",
)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_tells_the_password_of_a_store(web, ask, command, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{CANARY}@{web.host}")
    arguments = ARGUMENTS[command].format(url=URLS[0]).split()
    for flags in ((), ("--debug",), ("--json",)):
        code, said = ask(command, *arguments, "--store", URLS[0], *flags)
        assert code or command == "classes", said


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("flag", ["--store", "--origin", "--to"])
def test_address_that_is_no_store_is_refused_without_its_secrets(
    web, ask, url, flag, bees, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{CANARY}@{web.host}")
    if flag == "--to":
        shutil.copytree(bees, "store")
    command = {"--store": "ls", "--origin": "pull x", "--to": "push bees"}[flag].split()
    for more in ((), ("--debug",), ("--json",)):
        assert ask(*command, flag, url, *more)[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_address_at_the_wrong_place_of_a_command_line_is_printed_without_secrets(web, ask, command):
    for arguments in ((web.url(), web.url(), web.url()), (f"--sours={web.url()}",)):
        assert ask(command, *arguments)[0] == 2


@pytest.mark.parametrize("flags", [(), ("--json",), ("--debug",), ("--dry-run",)], ids=" ".join)
def test_export_to_a_url_with_a_password_tells_the_place_alone(web, ask, flags, bees, monkeypatch):
    shutil.copytree(bees, "store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{CANARY}@{web.host}")
    out = f"s3://user:{CANARY}@bucket/bees"
    code, said = ask("export", "bees", "--format", "idx", "--out", out, *flags)
    assert code == (0 if "--dry-run" in flags else 1)
    assert "--dry-run" not in flags or "s3://bucket/bees" in said


def assert_only_typed(command: list[str], seen: dict[int, str]) -> None:
    """Check that the source stands where a person has typed it: front, guard and work have that.

    So has a child of theirs, such as git, until it has become another program.
    """
    telling = [line.split("\0")[1:-1] for line in seen.values() if CANARY in line]
    assert len(telling) >= 3
    assert all(line == command for line in telling)


@pytest.mark.slow
def test_no_process_of_a_build_shows_the_source(web, tmp_path):
    command = [str(Path(sys.executable).with_name("sketchmill")), "build", "--source", web.url()]
    command += ["--classes", "bee,sun", "--workers", "2", "--debug"]
    with watching(os.getpid()) as seen:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert CANARY not in done.stdout + done.stderr
    assert_only_typed(command, seen)
    assert any("sdk_worker" in line for line in seen.values())
    assert canaries(tmp_path) == []


@pytest.mark.slow
def test_no_process_and_no_file_of_the_chain_shows_the_source(web, tmp_path):
    small = ("num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8", "budget_nimg=16")
    command = [str(Path(sys.executable).with_name("sketchmill")), "run", "--source", web.url()]
    command += ["--classes", "bee,sun", "--samples-per-class", "2", "--debug"]
    command += [part for setting in small for part in ("--set", setting)]
    home = {name: str(tmp_path / name) for name in ("PREFECT_HOME", "SKETCHMILL_CACHE", "TMPDIR")}
    (tmp_path / "TMPDIR").mkdir()
    with watching(os.getpid()) as seen:
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | home
        )
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert_only_typed(command, seen)
    assert sum("model.training.train" in line for line in seen.values()) >= 2
    assert (tmp_path / "PREFECT_HOME" / "prefect.db").exists()
    assert canaries(tmp_path) == []


@pytest.mark.slow
def test_no_process_of_a_stage_of_a_flow_shows_its_parameters(web, tmp_path):
    from flows.deployments.child import run_isolated

    params = BuildParams(store=str(tmp_path), name="far", source=web.url(), classes=CLASSES)
    with watching(os.getpid()) as seen:
        made = run_isolated("build", params)
    assert made["name"] == "far"
    assert (
        sum("flows.deployments.child" in line for line in seen.values()) == 2
    )  # the guard's as well
    assert [line for line in seen.values() if CANARY in line] == []
    assert canaries(tmp_path) == []


@contextlib.contextmanager
def watching(pid: int) -> Iterator[dict[int, str]]:
    """Yield the command lines of the processes below one, by their numbers, as `ps` shows them."""
    seen: dict[int, str] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for each in descendants(pid):
                with contextlib.suppress(OSError):
                    if line := Path(f"/proc/{each}/cmdline").read_text(errors="replace"):
                        seen[each] = line

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
