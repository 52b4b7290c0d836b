"""Keep the loop's own files out of the user's `git status`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from agent.errors import AutoresearchError
from agent.repository.git import LITERAL, Git
from agent.repository.workspace import Workspace
from agent.system.files import write_whole
from agent.system.invocation import git_here, here


def exclude(workspace: Workspace, paths: Iterable[str]) -> None:
    """Add the paths to the repository's own exclude file, unless .gitignore has them already.

    Args:
        paths: relative to the workspace; a folder ends with a slash.
    """
    file = workspace.git.top / workspace.git.run("rev-parse", "--git-path", "info/exclude")
    present = file.read_bytes() if file.exists() else b""
    # From the top, since other folders may have a run.log of the user's own.
    wanted = _not_ignored(workspace, [*paths])
    anchored = [f"/{_escaped(workspace.in_repository(path))}{'/' * path.endswith('/')}" for path in wanted]
    missing = [pattern for pattern in anchored if os.fsencode(pattern) not in present.splitlines()]
    if missing:
        file.parent.mkdir(exist_ok=True)
        between = b"" if present.endswith(b"\n") or not present else b"\n"
        # Whole, since it holds the user's own patterns, and where a link leads, since that is the user's as well.
        write_whole(file.resolve(), present + between + os.fsencode("\n".join(missing) + "\n"))


def adding(git: Git, path: Path) -> str:
    """Return the command that adds a file of the user's to the index, although .gitignore may cover it."""
    forced = ""
    with contextlib.suppress(AutoresearchError):  # git exits with 1 if it is not ignored
        git.run("check-ignore", "--quiet", str(path), env={LITERAL: "0"})
        forced = " -f"
    return f"{git_here(git.top)} add{forced} {here(path)}"


def _not_ignored(workspace: Workspace, paths: list[str]) -> list[str]:
    """Return those of `paths`, relative to the workspace, that git would show as untracked."""
    # With a trailing slash, rules for folders also match a folder that does not exist yet; the leading `./` keeps
    # git from reading pathspec magic into a name.
    names = {path: f"./{workspace.in_repository(path)}{'/' * path.endswith('/')}" for path in paths}
    ignored = b""
    if names:
        with contextlib.suppress(AutoresearchError):  # git exits with 1 if none is ignored
            said = os.fsencode("".join(f"{name}\0" for name in names.values()))
            ignored = workspace.git.fed(["check-ignore", "-z", "--stdin", "--no-index"], said, {LITERAL: "0"})
    return [path for path, name in names.items() if os.fsencode(name) not in ignored.split(b"\0")]


def _escaped(name: str) -> str:
    """Return the pattern of gitignore(5) that only this name matches."""
    return re.sub(r"([*?\[\\ ])", r"\\\1", name)
