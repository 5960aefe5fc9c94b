"""What pip installs for some extras, as a virtual environment that takes seconds to make.

The distributions that the extras ask for, and those that they ask for, are linked from the
environment of the tests into one that has nothing else; this project's own packages too. An import
of anything else fails there as it does where pip has installed the extras, which takes minutes,
gigabytes and a network. The images of infra/ are such environments.
"""

import contextlib
import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import subprocess
import tomllib
import venv
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
# The packages, and those that lie elsewhere in the tree than in a wheel.
OWN = [ROOT / name for name in WHEEL["packages"]]
OWN += [package for source in WHEEL["sources"] for package in (ROOT / source).iterdir()]
# Tools that `pip freeze` does not list.
NOT_FROZEN = {"setuptools", "wheel"}
Distributions = dict[str, importlib.metadata.Distribution]


class Environment:
    """An environment of requirements and this project, in a folder; runs commands there."""

    def __init__(self, wanted: Iterable[str], folder: Path) -> None:
        venv.EnvBuilder(symlinks=True).create(folder)
        self.bin = folder / "bin"
        packages = next(folder.glob("lib/python3*/site-packages"))
        for each in installed_with(wanted).values():
            _link(each, packages)
            _write_scripts(each, self.bin)
        for package in OWN:
            (packages / package.name).symlink_to(package)
        own = importlib.metadata.distribution("sketchmill")
        _link(own, packages, only_metadata=True)
        _write_scripts(own, self.bin)

    def run(
        self, *command: str, folder: Path, given: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run an installed command in a folder of its own; `given` is its input."""
        full, environment = self._prepared(command, folder, more)
        return subprocess.run(
            full, cwd=folder, env=environment, input=given, capture_output=True, text=True
        )

    @contextlib.contextmanager
    def running(self, *command: str, folder: Path, log: Path, **more: str) -> Iterator[None]:
        """Run an installed command for as long as the block; it dies with the tests as well."""
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


class Image(Environment):
    """The environment of one image of infra/."""

    def __init__(self, floor: str, folder: Path) -> None:
        self.floor = floor
        super().__init__(requirements(floor), folder)


def requirements(floor: str) -> list[str]:
    """Return what the Dockerfile of an image has pip install with its constraints."""
    text = (ROOT / f"infra/Dockerfile.{floor}").read_text()
    (given,) = re.findall(r"^RUN pip install .*-c constraints\.txt (.*)$", text, re.MULTILINE)
    return [re.sub(r"^\.", "sketchmill", each) for each in shlex.split(given)]


def installed_with(wanted: Iterable[str]) -> Distributions:
    """Return what pip installs for requirements beside this project, by canonical name."""
    found: Distributions = {}
    seen: set[tuple[str, str]] = set()
    pending = [Requirement(text) for text in wanted]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name != "sketchmill":
            found[name] = importlib.metadata.distribution(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                pending += _needed(name, extra)
    return found


def _needed(name: str, extra: str) -> list[Requirement]:
    """Return what a distribution asks for, with an extra; of this project by pyproject.toml."""
    if name == "sketchmill":
        project = PROJECT["project"]
        texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
        return [Requirement(text) for text in texts]
    needed = map(Requirement, importlib.metadata.requires(name) or ())
    return [each for each in needed if not each.marker or each.marker.evaluate({"extra": extra})]


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
