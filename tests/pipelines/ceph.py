"""A Ceph cluster of one node with an S3 gateway on loopback: a real server for the store's tests.

Needs Debian's radosgw, ceph-mon, ceph-osd and ceph-mgr, and root; takes about 20 s and 420 MB.
The daemons run in the foreground as children of the test process and die with it.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUCKET = "sketchmill"

PROGRAMS = ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "monmaptool")
START_SEC = 90

CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon osd full ratio = .97
mon osd backfillfull ratio = .96
mon osd nearfull ratio = .95
mon data avail warn = 2
mon data avail crit = 1
run dir = {root}/run
admin socket = {root}/run/$name.$pid.asok
log file = {root}/log/$name.log
pid file = {root}/run/$name.pid
mon data = {root}/mon
mgr data = {root}/mgr
osd data = {root}/osd
osd objectstore = bluestore
bluestore block size = 10737418240
osd memory target = 939524096
crash dir = {root}/log
setuser = root
setgroup = root
[mgr]
keyring = {root}/keyring
[client]
keyring = {root}/keyring
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{s3}
rgw dns name = localhost
rgw enable usage log = false
rgw thread pool size = 64
"""


@dataclass(frozen=True)
class S3Server:
    """Where a server listens and who may use it."""

    endpoint: str
    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        """Return the variables that clients read; path style, checksums only where required."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def why_not() -> str:
    """Return why the cluster cannot start on this machine, or "" if it can."""
    if os.geteuid() != 0:
        return "Ceph needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt install radosgw ceph-mon ceph-osd ceph-mgr"
    return ""


@contextlib.contextmanager
def ceph(root: Path) -> Iterator[S3Server]:
    """Run a cluster in an empty folder for as long as the block."""
    ports = dict(zip(("mon_v2", "mon_v1", "s3"), free_ports(3), strict=True))
    cluster = _Cluster(root, ports)
    try:
        cluster.start()
        yield cluster.server
    finally:
        cluster.stop()


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class _Cluster:
    def __init__(self, root: Path, ports: dict[str, int]) -> None:
        self.root, self.ports = root, ports
        self.fsid = str(uuid.uuid4())
        self.daemons: list[subprocess.Popen] = []
        self.server = S3Server(
            f"http://127.0.0.1:{ports['s3']}", "testkey", secrets.token_urlsafe(16)
        )
        for name in ("mon", "mgr", "osd", "run", "log"):
            (root / name).mkdir(parents=True)
        (root / "ceph.conf").write_text(CONF.format(fsid=self.fsid, root=root, **ports))

    def start(self) -> None:
        self._monitor()
        self._daemon("ceph-mgr", "-i", "x")
        self._disk()
        self._daemon("radosgw", "-n", "client.rgw")
        self._wait(self._answers, "the S3 gateway")
        names = ("--uid=test", "--display-name=test")
        keys = (f"--access-key={self.server.key}", f"--secret-key={self.server.secret}")
        self._run("radosgw-admin", "user", "create", *names, *keys)

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.kill()
        for daemon in self.daemons:
            daemon.wait()

    def _monitor(self) -> None:
        ring = str(self.root / "keyring")
        everything = [part for who in ("mon", "osd", "mgr") for part in ("--cap", who, "allow *")]
        auth = ("ceph-authtool", ring, "--gen-key")
        self._run("ceph-authtool", "-C", ring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run(*auth, "-n", "client.admin", *everything)
        self._run(*auth, "-n", "client.rgw", *everything)
        self._run(*auth, "-n", "mgr.x", "--cap", "mon", "allow profile mgr", *everything[3:6])
        mon_map = str(self.root / "monmap")
        address = f"[v2:127.0.0.1:{self.ports['mon_v2']},v1:127.0.0.1:{self.ports['mon_v1']}]"
        self._run("monmaptool", "--create", "--addv", "a", address, "--fsid", self.fsid, mon_map)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", mon_map, "--keyring", ring)
        self._daemon("ceph-mon", "-i", "a")

    def _disk(self) -> None:
        key = self._run("ceph-authtool", "--gen-print-key").strip()
        (self.root / "secret.json").write_text(json.dumps({"cephx_secret": key}))
        disk = str(uuid.uuid4())
        self._run("ceph", "osd", "new", disk, "-i", str(self.root / "secret.json"))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk, "--key", key)
        (self.root / "osd" / "keyring").write_text(f"[osd.0]\n\tkey = {key}\n")
        self._daemon("ceph-osd", "-i", "0")
        self._wait(lambda: "1 up" in self._run("ceph", "osd", "stat"), "the disk")

    def _environment(self) -> dict[str, str]:
        return os.environ | {"CEPH_CONF": str(self.root / "ceph.conf")}

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=START_SEC
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout} {done.stderr}"
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> None:
        log = (self.root / "log" / f"{program}.out").open("wb")
        command = ["setpriv", "--pdeathsig", "KILL", program, "-f", *arguments]
        with log:
            self.daemons.append(
                subprocess.Popen(
                    command, env=self._environment(), stdout=log, stderr=log, process_group=0
                )
            )

    def _wait(self, is_ready, what: str) -> None:
        deadline = time.monotonic() + START_SEC
        while not is_ready():
            dead = [each.args for each in self.daemons if each.poll() is not None]
            assert not dead, f"ended early: {dead}; logs in {self.root / 'log'}"
            assert time.monotonic() < deadline, f"{what} did not come up in {START_SEC} s"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.server.endpoint, timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
