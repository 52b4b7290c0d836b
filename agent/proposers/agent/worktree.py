"""Create the copy of the workspace that a coding agent edits, and collect its changes.

Nothing in the copy is trusted after the agent ran: no link is followed, git is not started in it, and only regular
files of limited size are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import posixpath
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.format import one_line
from agent.proposers.base import Context, Unavailable
from agent.repository.edit import LARGEST_EDIT, MOST_NEW_FILES
from agent.skill.install import strip
from agent.source.encoding import decoded, encoded
from agent.system.files import Unusable, open_plain, read_bounded, write_whole
from agent.system.masking import secrets
from agent.system.names import fault_of_path, linked_part
from agent.system.shielded import run_shielded

# Inside the copy, because some agents cannot read outside the folder they start in.
PROMPT, NOTES = "autoresearch-prompt.md", "autoresearch-notes.md"
LARGEST_FILE = 2**20
LARGEST_COMPARED = 2**26
MOST_FILES, DEEPEST = 200_000, 100
LONGEST_SHOWN = 200  # characters of a path
GIT_SECONDS = 120

# The agent's commits are discarded: they need an author, but neither the user's hooks nor a signing passphrase.
GIT_CONFIG = """\
[user]
\tname = agent
\temail = agent@localhost
[commit]
\tgpgSign = false
[core]
\thooksPath = /dev/null
"""


@dataclass(frozen=True)
class Worktree:
    """An agent's copy of the workspace.

    Attributes:
        top: root of the copy, with every tracked file and its own repository.
        workspace: folder inside `top` where the agent starts.
        before: path relative to the workspace -> state of the incumbent's file, as `_states` returns it.
        head: the content of HEAD and of the branch file that it names, before the agent ran.
    """

    top: Path
    workspace: Path
    before: Mapping[str, str]
    head: tuple[str, str]


@dataclass(frozen=True)
class Changes:
    """The changes of an agent.

    Attributes:
        files: path -> new text of each file that the candidate may change.
        dropped: everything else, as clauses: "changed prepare.py, which is not a mutable file".
        notes: the text of the agent's notes; empty if it left none.
    """

    files: Mapping[str, str]
    dropped: tuple[str, ...]
    notes: str


class Refused(Exception):
    """A file that cannot become part of a candidate; the text follows the path: "which is larger than 1 MiB"."""


def make_worktree(context: Context, top: Path, draft: Mapping[str, str]) -> Worktree:
    """Create a copy of the incumbent at `top`, committed in its own repository.

    Args:
        draft: path -> text, written to the copy as an uncommitted change.

    Raises:
        Unavailable: git cannot create the repository.
    """
    workspace = context.workspace.export(top.resolve())
    strip(workspace)  # its guide is for agents in the user's checkout
    _place(workspace, context.files)
    top = top.resolve()
    _commit(top)
    before = _states(top, workspace)
    for path in (PROMPT, NOTES):
        (workspace / path).unlink(missing_ok=True)
    _place(workspace, draft)
    return Worktree(top, workspace, before, _head(top) or ("", ""))


def environment() -> dict[str, str]:
    """Return the environment of this process without the variables that would point git to another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def changes_in(worktree: Worktree, context: Context) -> Changes:
    """Return the differences from the incumbent: the changes to mutable files, and what is dropped."""
    workspace = worktree.workspace
    if linked_part(Path(workspace.anchor), str(workspace.relative_to(workspace.anchor))) or not workspace.is_dir():
        return Changes({}, ("removed its working folder",), "")
    files: dict[str, str] = {}
    dropped, created = _git_matters(worktree), list[str]()
    after = _states(worktree.top, workspace, worktree.before)
    if len(after) >= MOST_FILES:
        dropped.append(f"created more than {MOST_FILES:,} files, of which the rest were not examined")
    for path in sorted({*worktree.before, *after} - {PROMPT, NOTES}):
        new = path not in worktree.before
        if worktree.before.get(path) == after.get(path) or (new and _is_litter(path)):
            continue
        if new and len(created) > MOST_NEW_FILES:
            continue  # none of them is taken
        # A file name may be invalid UTF-8.
        shown = one_line(path.encode(errors="replace").decode())
        shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
        did = f"{'deleted' if path not in after else 'created' if new else 'changed'} {shown}"
        if path.startswith("../") or not path.isprintable() or not context.workspace.allows(path):
            dropped.append(f"{did}, which is not a mutable file")
        elif path not in after:
            dropped.append(f"{did}, which is required")
        elif any(str(parent) in worktree.before for parent in PurePosixPath(path).parents):
            dropped.append(f"{did}, in a folder that replaced a required file")
        else:
            try:
                text = _text(workspace / path, context.files.get(path, ""))
            except Refused as reason:
                dropped.append(f"{did}, {reason}")
                continue
            if text != context.files.get(path):
                files[path] = text
                created += [path] * new
    files = _bounded(files, created, dropped)
    said = ""
    with contextlib.suppress(Refused):
        said = _text(workspace / NOTES)
    return Changes(files, tuple(dropped), said)


def _bounded(files: Mapping[str, str], created: Sequence[str], dropped: list[str]) -> dict[str, str]:
    """Return the changes without what no person would read: installed packages, or generated data.

    Args:
        created: those of `files` that are new.
        dropped: receives what is left out.
    """
    kept = dict(files)
    if len(created) > MOST_NEW_FILES:
        dropped.append(f"created more than {MOST_NEW_FILES} files, such as {one_line(created[0])[:LONGEST_SHOWN]}")
        kept = {path: text for path, text in kept.items() if path not in created}
    if sum(map(len, kept.values())) > LARGEST_EDIT:
        dropped.append(f"changed more than {LARGEST_EDIT // 2**20} MiB of text in {len(kept)} files")
        return {}
    return kept


def _place(workspace: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = workspace / path
        if linked_part(workspace, str(PurePosixPath(path).parent)) is not None:
            raise Unavailable(f"cannot create the agent's copy: {one_line(path)} is behind a symbolic link")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, encoded(path, text), durable=False)


def _commit(top: Path) -> None:
    """Commit the incumbent in a new repository: some agents need one to show their changes."""
    _git(top, "init", "--quiet", "--template=", "--initial-branch=main")
    with (top / ".git" / "config").open("a") as config:
        config.write(GIT_CONFIG)
    _git(top, "add", "--all", "--force")
    _git(top, "commit", "--quiet", "--allow-empty", "-m", "the incumbent")


def _git(top: Path, *args: str) -> None:
    alone = {"GIT_CEILING_DIRECTORIES": str(top.parent), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    try:
        done = run_shielded(["git", *args], cwd=top, env={**environment(), **alone}, timeout=GIT_SECONDS)
        words = "" if done.returncode == 0 else done.stderr.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        words = str(error)
    if words:
        raise Unavailable(f"cannot create the agent's copy: `git {args[0]}` failed in {top}: {' '.join(words.split())}")


def _git_matters(worktree: Worktree) -> list[str]:
    """Return what the agent did to its repository.

    Reads the repository's files, because git would run whatever the agent configured there.
    """
    head = _head(worktree.top)
    if head is None:
        return ["deleted .git"]
    if head[0] != worktree.head[0]:
        return ["switched the branch"]
    return ["committed"] if head[1] and head[1] != worktree.head[1] else []


def _head(top: Path) -> tuple[str, str] | None:
    """Return the content of HEAD, and of the branch file that it names; None if HEAD is unreadable.

    The second is empty if HEAD names no branch, or the branch has no file.
    """
    if (top / ".git").is_symlink():
        return None
    try:
        head = _text(top / ".git" / "HEAD").strip()
    except Refused:
        return None
    branch = head.removeprefix("ref: ")
    try:
        return head, _text(top / ".git" / branch) if branch.startswith("refs/") and not fault_of_path(branch) else ""
    except Refused:
        return head, ""


def _is_litter(path: str) -> bool:
    """Return whether a new file is a cache or an agent's own: dropped without mention."""
    parts = [part for part in path.split("/") if part != ".."]
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


def _states(top: Path, workspace: Path, known: Iterable[str] = ()) -> dict[str, str]:
    """Return path relative to the workspace -> state, for all files below `top` except .git.

    Args:
        known: paths to examine first. If given, other files are only listed, up to a limit in number and depth.
    """
    prefix = workspace.relative_to(top).as_posix()
    found: dict[str, str] = {}
    for path in known:
        place = PurePosixPath(posixpath.normpath(posixpath.join(prefix, path)))
        if linked_part(top, str(place.parent)) is None and os.path.lexists(top / place):
            found[path] = _state(top / place)
    left = [(top, 0)]
    while left and len(found) < MOST_FILES:
        folder, depth = left.pop()
        for entry in _entries(folder):
            path = posixpath.relpath(Path(entry.path).relative_to(top).as_posix(), prefix)
            if not entry.is_dir(follow_symlinks=False):
                found.setdefault(path, _state(Path(entry.path)) if not known else "new")
            elif entry.name not in (".git", "__pycache__") and depth < DEEPEST:
                left.append((Path(entry.path), depth + 1))
            elif depth >= DEEPEST:
                found[path] = "too deep"
            if len(found) >= MOST_FILES:
                break
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, at most MOST_FILES; empty if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(itertools.islice(entries, MOST_FILES))
    except OSError:
        return []


def _state(path: Path) -> str:
    """Return a string that changes with the content of a file: a hash, the target of a link, or its kind."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return f"link to {os.fsencode(path.readlink()).hex()}"
        if not stat.S_ISREG(status.st_mode):
            return "special"
        if status.st_size > LARGEST_COMPARED:
            return f"{status.st_size} bytes"
        with open_plain(path) as file:
            return hashlib.file_digest(io.BufferedReader(file), "sha256").hexdigest()
    except (OSError, ValueError):
        return "unreadable"


def _text(path: Path, incumbent: str = "") -> str:
    """Return the text of a regular file.

    Args:
        path: the file.
        incumbent: its text in the incumbent. A secret in there was not put in by the agent.

    Raises:
        Refused: it is not a regular file, too large, unreadable, not text, or holds a new secret.
    """
    try:
        text = decoded(path.name, read_bounded(path, LARGEST_FILE))
    except Unusable as fault:
        large = "larger" in str(fault)
        raise Refused(f"which {fault}" if large else "which is no longer a regular file") from None
    except OSError as error:
        raise Refused(f"which cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise Refused("which is not valid text in UTF-8 or the encoding that it declares") from None
    if "\0" in text:
        raise Refused("which is not text")
    for secret, name in secrets(os.environ).items():
        if secret in text and secret not in incumbent:
            raise Refused(f"which contains the value of {name}")
    return text
