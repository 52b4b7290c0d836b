"""Commands of this program as the user can type them in the current folder, for hints and reports."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from agent.system.files import Unusable, read_bounded

NAME = "autoresearch"
OWN_PROJECT = re.compile(rf'^name\s*=\s*["\']{NAME}["\']', re.MULTILINE)
LARGEST_PROJECT = 2**20
# Set by `uv run`, which also puts the environment's programs on PATH for the single command that it runs.
UNDER_UV_RUN = "UV_RUN_RECURSION_DEPTH"


class _Standing:
    """The folder given with -C, or None. Commands in hints repeat it."""

    named: Path | None = None


def stand(named: Path | None) -> None:
    """Remember the folder given with -C."""
    _Standing.named = named


def typed(arguments: str) -> str:
    """Return a command of this program as it works in the user's current folder: `uv run autoresearch stop`."""
    where = f" -C {shlex.quote(str(_Standing.named))}" if _Standing.named is not None else ""
    return f"{program()}{where} {arguments}"


def version() -> str:
    """Return the version of this program, "unknown" if it runs from a folder in which nothing was installed."""
    from importlib import metadata  # slow to import

    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


def program(folder: Path | None = None) -> str:
    """Return the command that starts this program in `folder`.

    This is its name if a shell finds it on PATH, `uv run NAME` in a project that provides it, else its full path.

    Args:
        folder: None means the current folder.
    """
    if shutil.which(NAME, path=os.pathsep.join(_shell_path())):
        return NAME
    if _is_projects(folder or Path()):
        return f"uv run {NAME}"
    script = Path(sys.prefix) / "bin" / NAME
    return shlex.quote(str(script)) if script.is_file() else f"{shlex.quote(sys.executable)} -m agent"


def git_here(top: Path) -> str:
    """Return the command that starts git for the repository at `top`, with git's -C if ours was given."""
    return "git" if _Standing.named is None else f"git -C {shlex.quote(str(top))}"


def fetch_commits(top: Path) -> str:
    """Return the command that brings the commits of experiments from another clone: git's own brings branches alone."""
    return f"{git_here(top)} fetch OTHER_CLONE 'refs/autoresearch/*:refs/autoresearch/*'"


def here(path: Path) -> str:
    """Return a path quoted for the user's shell: relative if it is below the current folder, else absolute."""
    if _Standing.named is not None:
        return shlex.quote(str(path.resolve()))
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except (OSError, ValueError):
        return shlex.quote(str(path))


def _shell_path() -> list[str]:
    """Return the folders of PATH, without the one that `uv run` has added for this process only."""
    folders = [each for each in os.environ.get("PATH", "").split(os.pathsep) if each]
    own = str(Path(sys.prefix) / "bin")
    if UNDER_UV_RUN in os.environ and own in folders:
        folders.remove(own)
    return folders


def _is_projects(folder: Path) -> bool:
    """Return whether `uv run` finds the program in `folder`: its nearest project is this one or has it installed."""
    try:
        whole = folder.resolve()
        for place in (whole, *whole.parents):
            if (place / "pyproject.toml").is_file():
                text = read_bounded(place / "pyproject.toml", LARGEST_PROJECT).decode(errors="replace")
                return OWN_PROJECT.search(text) is not None or (place / ".venv" / "bin" / NAME).is_file()
    except (OSError, Unusable):
        pass
    return False
