"""Real servers on loopback for the tests of the flows: PostgreSQL, Prefect, a worker."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_SEC = 120
PREFECT = str(Path(sys.executable).with_name("prefect"))
# Loops that a test waits for; the defaults are a minute, twenty and ten seconds.
QUICK_SERVER = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "2",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_UI_ENABLED": "false",
}
QUICK_WORKER = {"PREFECT_WORKER_QUERY_SECONDS": "3", "PREFECT_WORKER_PREFETCH_SECONDS": "1"}
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"}


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, None if it is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return each.getsockname()[1]


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a database server that writes its log into a new folder; yield the URL for Prefect.

    Its files are in a folder beside pytest's, which every start of pytest closes to other
    accounts, such as the one that the database runs under.
    """
    programs = postgres_programs()
    assert programs is not None
    folder.mkdir(parents=True)
    password, port = secrets.token_urlsafe(12), free_port()
    with tempfile.TemporaryDirectory(prefix="sketchmill-postgres-") as name:
        files = Path(name)
        account = _account(files)
        (files / "password").write_text(password)
        shutil.chown(files / "password", *account)
        _as(account, programs / "initdb", "-D", files / "db", "-U", "prefect", "-A",
            "scram-sha-256", f"--pwfile={files / 'password'}")  # fmt: skip
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={files}"
        command = [programs / "postgres", "-D", files / "db", *options.split()]
        with _process(_user(account, *command), folder / "postgres.log", {}):
            url = f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/postgres"
            _wait_for(lambda: _listens(port), "PostgreSQL")
            yield url


class PrefectServer:
    """A server that can be stopped and started; clients need its environment."""

    def __init__(self, folder: Path, database: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        auth = f"admin:{secrets.token_urlsafe(12)}"
        self._log, self._stack = folder / "server.log", contextlib.ExitStack()
        self.environment = QUIET | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_API_AUTH_STRING": auth,
        }
        self._own = QUICK_SERVER | {"PREFECT_SERVER_API_AUTH_STRING": auth}
        if database:
            self._own["PREFECT_API_DATABASE_CONNECTION_URL"] = database

    def start(self) -> None:
        command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self._stack.enter_context(_process(command, self._log, self.environment | self._own))
        _wait_for(self._answers, f"Prefect's server, log in {self._log},")

    def stop(self) -> None:
        self._stack.close()

    def _answers(self) -> bool:
        try:
            url = self.environment["PREFECT_API_URL"] + "/health"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False


@contextlib.contextmanager
def worker(
    pool: str, folder: Path, environment: dict[str, str], *, name: str = "", limit: int = 0
) -> Iterator[subprocess.Popen]:
    """Run a process worker of a pool, with a limit of runs at once if one is given."""
    name = name or pool
    command = [PREFECT, "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    command += ["--limit", str(limit)] if limit else []
    log = folder / f"worker-{name}.log"
    with _process(command, log, environment | QUICK_WORKER) as started:
        yield started


def wait_until(condition, limit_sec: float, what: str = "it", *, poll_sec: float = 0.5) -> float:
    """Wait until a condition holds, asked every `poll_sec`; return the seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_sec, f"{what} did not happen in {limit_sec} s"
        time.sleep(poll_sec)
    return time.monotonic() - started


@contextlib.contextmanager
def _process(command, log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Run a process for as long as the block; it dies with the tests as well."""
    full = ["setpriv", "--pdeathsig", "KILL", *map(str, command)]
    with log.open("ab") as output:
        started = subprocess.Popen(
            full,
            env=os.environ | environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        started.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def _wait_for(condition, what: str) -> None:
    wait_until(condition, START_SEC, what)


def _listens(port: int) -> bool:
    with socket.socket() as each:
        return each.connect_ex(("127.0.0.1", port)) == 0


def _account(folder: Path) -> tuple[int, int]:
    """Return who may run the database, which refuses root; give it the folder."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam("postgres")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return entry.pw_uid, entry.pw_gid


def _user(account: tuple[int, int], *command) -> list:
    if os.geteuid() != 0:
        return list(command)
    return [
        "setpriv",
        "--pdeathsig=KILL",
        f"--reuid={account[0]}",
        f"--regid={account[1]}",
        "--clear-groups",
        *command,
    ]


def _as(account: tuple[int, int], *command) -> None:
    done = subprocess.run(
        list(map(str, _user(account, *command))), capture_output=True, text=True, timeout=START_SEC
    )
    assert done.returncode == 0, done.stdout + done.stderr
