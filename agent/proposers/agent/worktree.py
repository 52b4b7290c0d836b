"""The copy of the workspace in which a coding agent works, and what it changed there.

Afterwards nothing in the copy is trusted: no link is followed, its git is not asked, and only plain files of a bounded
size are read.
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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.format import one_line
from agent.proposers.base import Context, Unavailable
from agent.room.variables import SECRET
from agent.source.encoding import decoded, encoded
from agent.system.files import Unusable, open_plain, read_bounded, write_whole
from agent.system.names import fault_of_path, linked_part

# In the copy, because some agents read nothing outside the folder they start in.
PROMPT, NOTES = "autoresearch-prompt.md", "autoresearch-notes.md"
LARGEST_FILE = 2**20
LARGEST_COMPARED = 2**26
MOST_FILES, DEEPEST = 200_000, 100
LONGEST_SHOWN = 200  # characters of a name
SHORTEST_SECRET = 12
GIT_SECONDS = 120

# The agent's commits are thrown away: they need a name, and neither the person's hooks nor a passphrase.
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
    """top: every tracked file and a repository of its own; workspace: the folder in it where the agent starts.

    before: path relative to the workspace -> what the incumbent has there. head: what the repository has checked out.
    """

    top: Path
    workspace: Path
    before: Mapping[str, str]
    head: tuple[str, str]


@dataclass(frozen=True)
class Changes:
    """files: what may be taken. dropped: what may not, as in "changed prepare.py, which may not change"."""

    files: Mapping[str, str]
    dropped: tuple[str, ...]
    notes: str


class Refused(Exception):
    """A file that cannot be taken; its text goes on after the file's name: "which is larger than 1 MiB"."""


def make_worktree(context: Context, top: Path, draft: Mapping[str, str]) -> Worktree:
    """A copy of the incumbent at `top`, committed there, with `draft` on top of it as an uncommitted change.

    Raises Unavailable where git cannot make the repository.
    """
    workspace = context.workspace.export(top.resolve())
    _place(workspace, context.files)
    top = top.resolve()
    _commit(top)
    before = _states(top, workspace)
    for path in (PROMPT, NOTES):
        (workspace / path).unlink(missing_ok=True)
    _place(workspace, draft)
    return Worktree(top, workspace, before, _head(top) or ("", ""))


def environment() -> dict[str, str]:
    """This process's, without what would lead git to another repository than the one it stands in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def changes_in(worktree: Worktree, context: Context) -> Changes:
    """What differs from the incumbent, sorted into what may be taken and what may not."""
    workspace = worktree.workspace
    if linked_part(Path(workspace.anchor), str(workspace.relative_to(workspace.anchor))) or not workspace.is_dir():
        return Changes({}, ("removed the folder that it worked in",), "")
    files, dropped = {}, _git_matters(worktree)
    after = _states(worktree.top, workspace, worktree.before)
    if len(after) >= MOST_FILES:
        dropped.append(f"made more than {MOST_FILES:,} files, of which the rest is not looked at")
    for path in sorted({*worktree.before, *after} - {PROMPT, NOTES}):
        if worktree.before.get(path) == after.get(path) or (path not in worktree.before and _is_litter(path)):
            continue
        # A name may be bytes that are no text.
        shown = one_line(path.encode(errors="replace").decode())
        shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
        did = f"{'deleted' if path not in after else 'changed' if path in worktree.before else 'made'} {shown}"
        if path.startswith("../") or not path.isprintable() or not context.workspace.allows(path):
            dropped.append(f"{did}, which may not change")
        elif path not in after:
            dropped.append(f"{did}, which has to stay")
        elif any(str(parent) in worktree.before for parent in PurePosixPath(path).parents):
            dropped.append(f"{did}, below what has to stay a file")
        else:
            try:
                text = _text(workspace / path)
            except Refused as reason:
                dropped.append(f"{did}, {reason}")
                continue
            if text != context.files.get(path):
                files[path] = text
    said = ""
    with contextlib.suppress(Refused):
        said = _text(workspace / NOTES)
    return Changes(files, tuple(dropped), said)


def without_secrets(text: str) -> str:
    """An agent has the keys of its provider, and some print them in their errors."""
    for secret, name in _secrets().items():
        text = text.replace(secret, f"({name})")
    return text


def _secrets() -> dict[str, str]:
    """value -> name of the variables that hold what must not leak."""
    return {v: name for name, v in os.environ.items() if len(v) >= SHORTEST_SECRET and SECRET.search(name)}


def _place(workspace: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = workspace / path
        if linked_part(workspace, str(PurePosixPath(path).parent)) is not None:
            raise Unavailable(f"no scratch repository for the agent: {one_line(path)} lies behind a link")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, encoded(path, text), durable=False)


def _commit(top: Path) -> None:
    """Some agents want a repository, and show their changes against its last commit."""
    _git(top, "init", "--quiet", "--template=", "--initial-branch=main")
    with (top / ".git" / "config").open("a") as config:
        config.write(GIT_CONFIG)
    _git(top, "add", "--all", "--force")
    _git(top, "commit", "--quiet", "--allow-empty", "-m", "the incumbent")


def _git(top: Path, *args: str) -> None:
    alone = {"GIT_CEILING_DIRECTORIES": str(top.parent), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    try:
        done = subprocess.run(
            ["git", *args],
            cwd=top,
            env={**environment(), **alone},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
        words = "" if done.returncode == 0 else done.stderr.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        words = str(error)
    if words:
        raise Unavailable(
            f"no scratch repository for the agent: `git {args[0]}` failed in {top}: {' '.join(words.split())}"
        )


def _git_matters(worktree: Worktree) -> list[str]:
    """What it did to its repository, by the files of that: asking git would run what an agent has configured there."""
    head = _head(worktree.top)
    if head is None:
        return ["deleted .git"]
    if head[0] != worktree.head[0]:
        return ["switched the branch"]
    return ["committed"] if head[1] and head[1] != worktree.head[1] else []


def _head(top: Path) -> tuple[str, str] | None:
    """HEAD and, where it names a branch with a file of its own, what stands there."""
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
    """Of caches and of the agents themselves: thrown away like all else, but not worth a word."""
    parts = [part for part in path.split("/") if part != ".."]
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


def _states(top: Path, workspace: Path, known: Iterable[str] = ()) -> dict[str, str]:
    """path relative to the workspace -> what is there, for all below `top` but git's own.

    known: what is looked for first, whatever else is there. All else is only counted up to a bound in number and depth.
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
    """What is in a folder, up to a bound; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(itertools.islice(entries, MOST_FILES))
    except OSError:
        return []


def _state(path: Path) -> str:
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


def _text(path: Path) -> str:
    """The text of a plain file. Raises Refused."""
    try:
        text = decoded(path.name, read_bounded(path, LARGEST_FILE))
    except Unusable as fault:
        large = "larger" in str(fault)
        raise Refused(f"which {fault}" if large else "which is no plain file any more") from None
    except OSError as error:
        raise Refused(f"which cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise Refused("which is not text in UTF-8, or in the encoding that it declares") from None
    if "\0" in text:
        raise Refused("which is not text")
    for secret, name in _secrets().items():
        if secret in text:
            raise Refused(f"which holds the value of {name}")
    return text
