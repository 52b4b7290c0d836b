"""How a person starts this program from where they stand: what hints, and the report's commands, begin with."""

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
# `uv run` sets it, and puts the environment's programs on PATH for the one command that it runs.
UNDER_UV_RUN = "UV_RUN_RECURSION_DEPTH"


class _Standing:
    """The folder that -C named, None without it: a hint has to name it, too."""

    named: Path | None = None


def stand(named: Path | None) -> None:
    """Remember what -C named."""
    _Standing.named = named


def typed(arguments: str) -> str:
    """Return a command of this program as it works where the person stands: `uv run autoresearch stop`."""
    where = f" -C {shlex.quote(str(_Standing.named))}" if _Standing.named is not None else ""
    return f"{program()}{where} {arguments}"


def program(folder: Path | None = None) -> str:
    """Return what starts this program in `folder`, by default the current one.

    Its name where a shell finds it, `uv run` before it in a project that has it, else its whole path.
    """
    if shutil.which(NAME, path=os.pathsep.join(_shell_path())):
        return NAME
    if _is_projects(folder or Path()):
        return f"uv run {NAME}"
    script = Path(sys.prefix) / "bin" / NAME
    return shlex.quote(str(script)) if script.is_file() else f"{shlex.quote(sys.executable)} -m agent"


def git_here(top: Path) -> str:
    """Return what starts git for the repository at `top`: with -C where the current folder is outside of it."""
    return "git" if _Standing.named is None else f"git -C {shlex.quote(str(top))}"


def here(path: Path) -> str:
    """Return a path as the person's shell takes it: relative below the current folder, else whole."""
    if _Standing.named is not None:
        return shlex.quote(str(path.resolve()))
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except (OSError, ValueError):
        return shlex.quote(str(path))


def _shell_path() -> list[str]:
    """Return the folders of PATH, without the one that `uv run` has put in front for this process alone."""
    folders = [each for each in os.environ.get("PATH", "").split(os.pathsep) if each]
    own = str(Path(sys.prefix) / "bin")
    if UNDER_UV_RUN in os.environ and own in folders:
        folders.remove(own)
    return folders


def _is_projects(folder: Path) -> bool:
    """Whether `uv run` finds the program there: in the nearest project upwards, by its name or its environment."""
    try:
        whole = folder.resolve()
        for place in (whole, *whole.parents):
            if (place / "pyproject.toml").is_file():
                text = read_bounded(place / "pyproject.toml", LARGEST_PROJECT).decode(errors="replace")
                return OWN_PROJECT.search(text) is not None or (place / ".venv" / "bin" / NAME).is_file()
    except (OSError, Unusable):
        pass
    return False
