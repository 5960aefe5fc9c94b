"""Versions of this program and of its libraries, for `--version`, manifests, cards, checkpoints.

    0.1.0                   installed
    0.1.0+g95495ee          a checkout, at this commit
    0.1.0+g95495ee.dirty    a checkout with changes to tracked files

A version is a note about an artifact and no part of its digest. Standard library only.
"""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "sketchmill"
# Where the metadata of a distribution is missing: a checkout on PYTHONPATH that nobody installed.
UNKNOWN = "unknown"
_CHECKOUT = Path(__file__).parents[2]
# On a network drive git may take long to look at every file; a version is not worth the wait.
_GIT_SEC = 5.0


@cache
def own_version() -> str:
    """Return the version of this program, with the commit if it is a checkout; never fails."""
    released, commit = _version(DISTRIBUTION), _commit(_CHECKOUT)
    if commit and released == UNKNOWN:
        released = "0"
    return f"{released}+g{commit}" if commit else released


def versions_of(*distributions: str) -> dict[str, str]:
    """Return the versions of Python, of this program and of distributions, by name."""
    found = {"python": platform.python_version(), DISTRIBUTION: own_version()}
    return found | {name: _version(name) for name in distributions}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _commit(folder: Path) -> str:
    """Return the commit of a checkout, "" for any other folder or if git cannot tell.

    git is told which repository, so that it finds none above the folder: an environment may lie in
    another project's checkout.
    """
    if not (folder / ".git").exists():
        return ""
    asked = ["git", f"--git-dir={folder / '.git'}", f"--work-tree={folder}", "--no-optional-locks"]
    asked += ["describe", "--always", "--dirty=.dirty", "--exclude=*", "--abbrev=7"]
    try:
        done = subprocess.run(
            asked, cwd=folder, capture_output=True, text=True, timeout=_GIT_SEC, check=True
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return done.stdout.strip()
