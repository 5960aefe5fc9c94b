"""What an image of infra/ has installed, as a virtual environment that takes seconds to make.

The distributions that a requirements file asks for, and those that they ask for, are linked from
the environment of the tests into one that has nothing else; this project's own packages too, as
`pip install --no-deps .` does. An import of anything else fails there as it does in the image.
pip itself takes four minutes, 1.5 GB and a network for the image of the model.
"""

import contextlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import venv
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OWN = ("pipelines", "model", "flows")
Distributions = dict[str, importlib.metadata.Distribution]


class Image:
    """An environment with the packages of one image, in a folder; runs the image's commands."""

    def __init__(self, floor: str, folder: Path) -> None:
        self.floor = floor
        venv.EnvBuilder(symlinks=True).create(folder)
        self.bin = folder / "bin"
        packages = next(folder.glob("lib/python3*/site-packages"))
        for each in installed_with(floor).values():
            _link(each, packages)
            _write_scripts(each, self.bin)
        for name in OWN:
            (packages / name).symlink_to(ROOT / name)
        own = importlib.metadata.distribution("sketchmill")
        _link(own, packages, only_metadata=True)
        _write_scripts(own, self.bin)

    def run(
        self, *command: str, folder: Path, given: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the image in a folder of its own; `given` is its input."""
        full, environment = self._prepared(command, folder, more)
        return subprocess.run(
            full, cwd=folder, env=environment, input=given, capture_output=True, text=True
        )

    @contextlib.contextmanager
    def running(self, *command: str, folder: Path, log: Path, **more: str) -> Iterator[None]:
        """Run a command of the image for as long as the block; it dies with the tests as well."""
        full, environment = self._prepared(command, folder, more)
        with log.open("ab") as output:
            started = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *full],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            yield
        finally:
            started.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()

    def _prepared(
        self, command: tuple[str, ...], folder: Path, more: dict[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        """Return a command and its variables; nothing of this process's own Python."""
        environment = {
            "PATH": f"{self.bin}:{os.defpath}",
            "HOME": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "DO_NOT_TRACK": "1",
        } | more
        program = shutil.which(command[0], path=environment["PATH"])
        assert program is not None, command[0]
        return [program, *command[1:]], environment


def requirements(floor: str) -> list[Requirement]:
    """Return the lines of an image's requirements file."""
    lines = (ROOT / f"infra/requirements-{floor}.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed_with(floor: str) -> Distributions:
    """Return what pip installs for an image, by canonical name."""
    found: Distributions = {}
    seen: set[tuple[str, str]] = set()
    pending = [(each.name, extra) for each in requirements(floor) for extra in ("", *each.extras)]
    while pending:
        name, extra = pending.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        found[canonicalize_name(name)] = importlib.metadata.distribution(name)
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            if not needed.marker or needed.marker.evaluate({"extra": extra}):
                pending += [(needed.name, each) for each in ("", *needed.extras)]
    return found


def pins() -> dict[str, str]:
    """Return the versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line.partition("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version.strip() for name, _, version in pinned}


def _link(
    distribution: importlib.metadata.Distribution, packages: Path, *, only_metadata: bool = False
) -> None:
    """Link a distribution's files; a folder as a whole if it is its alone."""
    for file in distribution.files or ():
        top = file.parts[0]
        if top == ".." or (only_metadata and not top.endswith(".dist-info")):
            continue
        place = Path(top) if _owners()[top] == 1 else Path(file)
        link = packages / place
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(distribution.locate_file(place))


@cache
def _owners() -> Counter[str]:
    """Return how many of the distributions here have files under each name."""
    return Counter(
        top
        for each in importlib.metadata.distributions()
        for top in {file.parts[0] for file in each.files or ()}
    )


def _write_scripts(distribution: importlib.metadata.Distribution, programs: Path) -> None:
    for point in distribution.entry_points.select(group="console_scripts"):
        script = programs / point.name
        script.write_text(
            f"#!{programs}/python\n"
            f"import sys\nfrom {point.module} import {point.attr}\nsys.exit({point.attr}())\n"
        )
        script.chmod(0o755)
