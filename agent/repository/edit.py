"""Read an edit from the user's checkout or from commits of theirs: the mutable files that differ from the incumbent."""

from __future__ import annotations

import shlex
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.errors import AutoresearchError, PreconditionError
from agent.repository.checkout import Checkout
from agent.repository.ready import require_no_operation
from agent.repository.refs import ROW
from agent.repository.workspace import Workspace
from agent.source.encoding import decoded
from agent.system.invocation import git_here, here
from agent.system.names import PROTOCOL, linked_part

LARGEST_FILE = 2**20
LARGEST_EDIT = 2**24
MOST_NEW_FILES = 100


@dataclass(frozen=True)
class Found:
    """An edit as it was found.

    Attributes:
        files: path relative to the workspace -> the complete new text of each mutable file that differs.
        fresh: those of them that differ from HEAD, too, so that they are uncommitted.
        tracked: other tracked files that differ, of which runs use the committed version. They are relative to the
            workspace, or to the repository if they are outside of it.
        untracked: other untracked files and folders.
        undoes: those of `files` that lack changes which the session kept.
    """

    files: Mapping[str, str]
    fresh: tuple[str, ...] = ()
    tracked: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    undoes: tuple[str, ...] = ()


class Refused(Exception):
    """A file that cannot be part of an edit; the text follows its name: "is larger than 1 MiB"."""


def require_rules(workspace: Workspace, base: str | None) -> None:
    """Check that the checkout has the rules of the session and no unfinished operation.

    Args:
        base: a commit with the session's protocol; None for HEAD.

    Raises:
        PreconditionError: protocol.json differs, or a merge, rebase, cherry-pick or bisect is unfinished.
    """
    checkout = Checkout(workspace)
    name = workspace.in_repository(PROTOCOL)
    if name in checkout.changes() or (base is not None and not checkout.holds(name, workspace.tree(base).get(name))):
        raise PreconditionError(
            f"{PROTOCOL} has changes, and experiments under other rules are not comparable",
            hint=f"put it back with `{_restore(workspace, PROTOCOL)}`, or commit it and start a session with "
            "another --tag",
        )
    require_no_operation(workspace)


def in_checkout(workspace: Workspace, incumbent: str) -> Found:
    """Return what differs in the working tree from the commit `incumbent`.

    New files count if they match the protocol's globs and git does not ignore them. A deleted file does not: the
    candidate still has it.

    Raises:
        PreconditionError: an edited file cannot be measured, or there are too many new files.
    """
    checkout, known, tree = Checkout(workspace), workspace.files(incumbent), workspace.tree(incumbent)
    changed = checkout.changes()
    untracked = workspace.git.lines("ls-files", "-z", "--others", "--exclude-standard")
    inside = {name: path for name in (*workspace.staged(), *untracked) if (path := workspace.inside(name)) is not None}
    pool = {*known, *(path for path in inside.values() if workspace.may_change(incumbent, path))}
    new = [path for path in pool - {*known} if workspace.in_repository(path) in untracked]
    if len(new) > MOST_NEW_FILES:
        raise PreconditionError(
            f"{len(new):,} untracked files match allowedGlobs, such as {sorted(new)[0]}",
            hint="list those that are no part of the edit in .gitignore, then run the same command again",
        )
    files: dict[str, str] = {}
    for path in sorted(pool):
        name = workspace.in_repository(path)
        if checkout.holds(name, tree.get(name)):
            continue
        try:
            text = _text(workspace, incumbent, path)
        except Refused as reason:
            if path in known and name in changed:
                raise PreconditionError(
                    f"{path} {reason}, so the edit cannot be measured", hint=f"fix it, or `{_restore(workspace, path)}`"
                ) from None
            continue
        if text is not None and text != known.get(path):
            files[path] = text
    _require_small(files)
    return _found(workspace, files, incumbent, changed, untracked)


def in_commits(workspace: Workspace, tip: str, incumbent: str) -> Found:
    """Return what differs in the commit `tip` from the commit `incumbent`."""
    known, theirs = workspace.files(incumbent), workspace.files(tip)
    files = {path: text for path, text in theirs.items() if text != known.get(path)}
    files = {path: text for path, text in files.items() if path in known or not workspace.refusal(incumbent, [path])}
    _require_small(files)
    before, after = workspace.tree(incumbent), workspace.tree(tip)
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    mine = {workspace.in_repository(path) for path in files}
    return Found(files, tracked=tuple(_shown(workspace, name) for name in changed if name not in mine))


def own_commits(workspace: Workspace, branch: str, head: str) -> Sequence[str]:
    """Return the commits that the user has added to a session's branch, the first one first.

    Args:
        head: where the session left the branch.

    Returns:
        Full hashes; empty if the branch is where it was, has been rewritten or deleted, or is ahead of its journal.
    """
    at = workspace.resolve(f"refs/heads/{branch}")
    if at is None or at == head or not workspace.is_ancestor(head, at) or is_ahead(workspace, head, at):
        return ()
    return workspace.git.run("rev-list", "--reverse", "--topo-order", f"{head}..{at}").splitlines()


def is_ahead(workspace: Workspace, head: str, at: str) -> bool:
    """Return whether a session itself has made the first commits after `head`: its journal is an older one."""
    return _own_after(workspace, head, at)[0]


def way_back(workspace: Workspace, branch: str, head: str) -> str:
    """Return the command that moves a session's branch back to `head`.

    Commits of the user's become uncommitted changes again; if all are of the session itself, their files go, too.
    """
    git, at = git_here(workspace.top), workspace.resolve(f"refs/heads/{branch}")
    known = at is not None and workspace.is_ancestor(head, at)
    if known and all(_own_after(workspace, head, at or "")) and Checkout(workspace).branch == branch:
        return f"{git} reset --keep {head[:12]}"
    return f"{git} update-ref {shlex.quote(f'refs/heads/{branch}')} {head[:12]}"


def _own_after(workspace: Workspace, head: str, at: str) -> tuple[bool, bool]:
    """Return whether a session has made the first commits after `head`, and all of them: candidates and their rows."""
    options = ("--no-show-signature", "--first-parent", "--reverse", "--format=%P%x09%s")
    lines = [line.partition("\t") for line in workspace.git.run("log", *options, f"{head}..{at}").splitlines()]
    rows = [" " not in parents and ROW.fullmatch(subject) is not None for parents, _, subject in lines]
    candidates = [" " not in parents and subject.startswith("experiment #") for parents, _, subject in lines]
    first = rows[:1] == [True] or (candidates[:1] == [True] and rows[1:2] == [True])
    return first, all(row or candidate for row, candidate in zip(rows, candidates, strict=True))


def _found(
    workspace: Workspace, files: Mapping[str, str], incumbent: str, changed: Sequence[str], untracked: Sequence[str]
) -> Found:
    mine = {workspace.in_repository(path): path for path in files}
    best, checkout = workspace.tree(incumbent), Checkout(workspace)
    # On another branch, a file with the incumbent's content differs from HEAD.
    tracked = [name for name in changed if name not in mine and not (name in best and checkout.holds(name, best[name]))]
    # Git has no empty folders, so none differs from a commit.
    listing = ("ls-files", "-z", "--others", "--exclude-standard", "--directory", "--no-empty-directory")
    folders = workspace.git.lines(*listing)
    left = [name for name in folders if name not in best and not any(each.startswith(name) for each in mine)]
    head, known = workspace.files(workspace.head), workspace.files(incumbent)
    undoes = [path for path, text in files.items() if _undoes(head.get(path, ""), known.get(path, ""), text)]
    return Found(
        files,
        fresh=tuple(mine[name] for name in sorted({*changed, *untracked} & {*mine})),
        tracked=tuple(sorted(_shown(workspace, name) for name in tracked)),
        untracked=tuple(sorted(_shown(workspace, name) for name in left)),
        undoes=tuple(undoes),
    )


def _undoes(head: str, incumbent: str, text: str) -> bool:
    """Return whether `text`, edited from `head`, lacks what the incumbent changed in it.

    It does if it has lines that the incumbent replaced, or none of those that the incumbent added.
    """
    before, after, now = (Counter(each.splitlines()) for each in (head, incumbent, text))
    replaced, added = before - after, after - before
    return bool(replaced & now) or (bool(added) and not replaced and not added & now)


def _text(workspace: Workspace, incumbent: str, path: str) -> str | None:
    """Return the text of a mutable file of the checkout as git would commit it; None if the file does not exist.

    Raises:
        Refused: it cannot be part of a candidate.
    """
    file = workspace.folder / path
    if linked_part(workspace.folder, path) is not None:
        raise Refused("is a link or behind one")
    try:
        status = file.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise Refused("is not a regular file")
    if status.st_size > LARGEST_FILE:
        raise Refused(f"is larger than {LARGEST_FILE // 2**20} MiB")
    name = workspace.in_repository(path)
    if name not in workspace.tree(incumbent) and (reason := workspace.refusal(incumbent, [path])):
        raise Refused(f"cannot be added: the edit {reason}")
    try:
        content = workspace.as_committed(name)
        text = decoded(path, content)
    except (UnicodeError, AutoresearchError) as error:
        raise Refused(
            "is not valid text in UTF-8 or the encoding that it declares"
            if isinstance(error, UnicodeError)
            else f"cannot be read: {error}"
        ) from None
    if "\0" in text:
        raise Refused("is not text")
    return text


def _restore(workspace: Workspace, path: str) -> str:
    return f"{git_here(workspace.top)} restore {here(workspace.folder / path)}"


def _require_small(files: Mapping[str, str]) -> None:
    if sum(map(len, files.values())) > LARGEST_EDIT:
        raise PreconditionError(
            f"the edit has more than {LARGEST_EDIT // 2**20} MiB in {len(files)} files",
            hint="list files that are no part of it in .gitignore, then run the same command again",
        )


def _shown(workspace: Workspace, name: str) -> str:
    inside = workspace.inside(name)
    return name if inside is None else f"{inside}{'/' * name.endswith('/')}"
