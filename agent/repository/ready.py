"""Check that nothing of the user's is in the way of a step, before anything is touched."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from agent.errors import AutoresearchError, PreconditionError
from agent.format import named
from agent.journal.paths import journal_path
from agent.repository.checkout import Checkout
from agent.repository.workspace import Workspace
from agent.source.encoding import encoded
from agent.system.invocation import git_here, here, typed
from agent.system.names import PLAYBOOK, PROTOCOL


def require_free(workspace: Workspace, branch: str, tag: str, own: Collection[str] = ()) -> None:
    """Raise PreconditionError if git could not create `branch`, or if refs of session `tag` already keep commits.

    Args:
        branch: its name.
        tag: the session.
        own: refs that belong to it: those of edits that wait for its start.
    """
    full, refs = f"refs/heads/{branch}", f"refs/autoresearch/{tag}"
    try:
        workspace.git.run("check-ref-format", full)
    except AutoresearchError:
        raise PreconditionError(
            f"{branch!r} is not a valid branch name", hint="choose another --tag or branchPattern"
        ) from None
    # On a case-insensitive disk, refs that differ only in case are the same.
    same = str.casefold if workspace.git.configured("core.ignorecase") == "true" else str
    git = git_here(workspace.top)
    for ref in workspace.git.run("for-each-ref", "--format=%(refname)").splitlines():
        found, kind = same(ref), ref.removeprefix("refs/heads/")
        if found == same(full):
            _require_no_home(workspace, f"the branch {kind} exists", kind, tag)
            # Git deletes no branch that it is on, and keeps one for a working tree that was removed by hand.
            leave = f"{git} switch --detach && " if Checkout(workspace).branch == kind else ""
            prune = f"{git} worktree prune && " if holders(workspace, kind) else ""
            raise PreconditionError(
                f"the branch {kind} exists, but no session here belongs to it",
                hint="choose another --tag, or delete the branch with "
                f"`{leave}{prune}{git} branch -D {shlex.quote(kind)}`",
            )
        if same(full).startswith(f"{found}/") or found.startswith(f"{same(full)}/"):
            before = workspace.protocol.provenance.git_workflow.branch_pattern.partition("<tag>")[0]
            every = same(f"refs/heads/{before}").startswith(f"{found}/")  # it is in the way of each tag
            other = f"commit another branchPattern in {PROTOCOL}" if every else "choose another --tag"
            raise PreconditionError(
                f"git cannot create the branch {branch} while {kind} exists",
                hint=f"rename {kind} with `{git} branch -m {shlex.quote(kind)} NAME`, or {other}",
            )
        if same(refs).startswith(f"{found}/") or found == same(refs):
            raise PreconditionError(
                f"git cannot create the ref {refs}/1 while {ref} exists",
                hint=f"rename {ref}" + (", or choose another --tag" if found == same(refs) else ""),
            )
        if found.startswith(f"{same(refs)}/") and ref not in own:
            _require_no_home(workspace, f"{ref} keeps an experiment of session {tag}", branch, tag)
            raise PreconditionError(
                f"{ref} keeps an experiment of a session that no longer exists here",
                hint="choose another --tag, or delete the session's refs with "
                f"`{git} for-each-ref --format='delete %(refname)' {refs}/ | {git} update-ref --stdin`",
            )


def require_clean(
    workspace: Workspace, *, notes: bool = True, but: Collection[str] = (), tag: str | None = None
) -> None:
    """Raise PreconditionError if tracked files have uncommitted changes or a git operation is unfinished.

    Args:
        notes: whether files count that are neither mutable nor part of protocol, harness or results.
        but: files that do not count, relative to the workspace.
        tag: the session in which an edit would be measured; None for that which `try` chooses.
    """
    rules, checkout = workspace.protocol, Checkout(workspace)
    status = checkout.status()
    if any(each.unmerged for each in status):
        require_no_operation(workspace)
    changed = [each.name for each in status if workspace.inside(each.name) not in but]
    if not notes and changed:
        harness = workspace.harness(workspace.head)
        own = {PROTOCOL, rules.provenance.results_log.path, *rules.immutable_harness.paths, *harness}
        inside = {name: workspace.inside(name) for name in changed}
        changed = [
            name for name, path in inside.items() if path and (path in own or rules.mutable_surface.allows(path))
        ]
    if changed:
        raise PreconditionError(
            f"the working tree has uncommitted changes ({named(changed, 3)})",
            hint=f"{_remedy(workspace, changed, tag)}, then run the same command again",
        )
    _require_none_begun(workspace)


def _remedy(workspace: Workspace, changed: Collection[str], tag: str | None) -> str:
    """Return how to get rid of uncommitted changes, for a hint."""
    modules, git = sorted({*changed} & {*workspace.submodules()}), git_here(workspace.top)
    if modules:
        others = f"commit or `{git} stash` the other files; " if len(modules) < len(changed) else ""
        back = f"`{git} submodule update`"
        return f"{others}commit or `git stash` inside of {named(modules, 3)}, and commit it here or run {back}"
    rows = workspace.protocol.provenance.results_log.path
    if {*changed} == {workspace.in_repository(rows)} and workspace.content(workspace.head, rows) is not None:
        # Committed, they would be rows that the session does not know.
        whole = f"{git} restore --staged --worktree {here(workspace.folder / rows)}"
        return f"restore it with `{whole}`, or `{git} stash` it"
    mine = {*changed} <= {*Checkout(workspace).edited()}
    attempt = typed(f"try --tag {tag}" if tag else "try")
    do = f"measure the edit with `{attempt}`, or commit" if mine else "commit"
    return f"{do} or `{git} stash` {'it' if mine else 'them'}"


def require_submodules(workspace: Workspace, commit: str, source: Path) -> None:
    """Raise PreconditionError if a submodule is not as `commit` has it: runs see it as it is in the checkout.

    What the user has told git to ignore of a submodule does not count.

    Args:
        source: the checkout. Submodules that it lacks are left out, like those that were not there for any run.
    """
    wanted = {path: at for path, at in workspace.submodules(commit).items() if (source / path / ".git").exists()}
    if not wanted:
        return
    differ = ["-C", str(source), "diff", "--name-only", "--no-ext-diff", "-z", commit, "--", *wanted]
    for path in (workspace.git.asked(*differ) or "").split("\0"):
        if path not in wanted:
            continue
        place = source / path
        at = workspace.git.run("-C", str(place), "rev-parse", "HEAD")
        changes = ("status", "--porcelain", "--untracked-files=no")
        if at == wanted[path] and not workspace.git.run("-C", str(place), *changes):
            continue  # the index of another branch has another commit of it
        if at == wanted[path]:
            fault, back = "has uncommitted changes", f"`git -C {here(place)} stash`"
        else:
            fault, back = f"is at {at[:12]}, not at {wanted[path][:12]}", f"`{git_here(source)} submodule update`"
            if workspace.staged().get(path, ("", ""))[1] != wanted[path]:  # as on another branch, whose own it has
                back = f"`git -C {here(place)} checkout {wanted[path][:12]}`, and take it to yours later with {back}"
        raise PreconditionError(
            f"the submodule {path} {fault}, so a run would not measure {commit[:12]}",
            hint=f"put it back with {back}; then run the same command again",
        )


def carried(workspace: Workspace, commit: str) -> tuple[str, ...]:
    """Return the playbook if its uncommitted changes do not count for a checkout of `commit`: git keeps them."""
    name = workspace.in_repository(PLAYBOOK)
    same = workspace.tree(workspace.head).get(name) == workspace.tree(commit).get(name)
    return (PLAYBOOK,) if same and PLAYBOOK in workspace.records else ()


def require_no_operation(workspace: Workspace) -> None:
    """Raise PreconditionError if a merge, rebase, cherry-pick, revert or bisect is unfinished, or left conflicts."""
    _require_none_begun(workspace)
    if unmerged := [each.name for each in Checkout(workspace).status() if each.unmerged]:  # left by `git stash pop`
        raise PreconditionError(
            f"the working tree has unresolved conflicts ({named(unmerged, 3)})",
            hint=f"resolve them and `{git_here(workspace.top)} add` the files, then run the same command again",
        )


def _require_none_begun(workspace: Workspace) -> None:
    for name in ("MERGE_HEAD", "rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG"):
        if (workspace.git.folder / name).exists():
            raise PreconditionError(
                f"git is in the middle of a merge, rebase, cherry-pick, revert or bisect ({name})",
                hint="finish or abort it, then run the same command again",
            )


def elsewhere(workspace: Workspace, branch: str) -> Path | None:
    """Return the other working tree of the repository that has `branch` checked out; None if none has."""
    found = (each for each in _others_with(workspace, branch) if each.locked or _exists(each.place))
    return next((each.place for each in found), None)


def holders(workspace: Workspace, branch: str) -> list[Path]:
    """Return the other working trees for which git keeps `branch`, including those that were removed by hand."""
    return [each.place for each in _others_with(workspace, branch)]


def _others_with(workspace: Workspace, branch: str) -> list[_WorkingTree]:
    found = _working_trees(workspace)
    return [each for each in found if each.branch == branch and each.place.resolve() != workspace.top]


def home_of(workspace: Workspace, tag: str) -> Path | None:
    """Return the other workspace of the repository that has session `tag`, in whichever working tree; None if none."""
    inside = {PurePosixPath(name).parent for name in workspace.staged() if PurePosixPath(name).name == PROTOCOL}
    folders = [
        place / folder
        for place in dict.fromkeys((workspace.top, *(each.place for each in _working_trees(workspace))))
        for folder in sorted({*inside, PurePosixPath(workspace.prefix)})
    ]
    others = (each for each in folders if each.resolve() != workspace.folder)
    return next((each for each in others if journal_path(each, tag).is_file()), None)


def require_not_elsewhere(workspace: Workspace, branch: str, flag: str) -> None:
    """Raise PreconditionError if another working tree has `branch` checked out.

    Args:
        flag: the flag that names another branch.
    """
    other = elsewhere(workspace, branch)
    if other is None:
        return
    release = f"release it with `git -C {here(other)} switch --detach`"
    if not _exists(other):
        git = git_here(workspace.top)
        release = f"make it available, or forget it with `{git} worktree remove -f -f {here(other)}`"
    raise PreconditionError(
        f"{branch} is checked out in {other}" + ("" if _exists(other) else ", which is locked and not here now"),
        hint=f"{release}, then run the same command again, or choose another {flag}",
    )


def require_may_switch(workspace: Workspace, branch: str) -> None:
    """Raise PreconditionError if git would not check out the branch of a session because of another working tree."""
    require_not_elsewhere(workspace, branch, "--tag")
    for gone in holders(workspace, branch):
        raise PreconditionError(
            f"git keeps {branch} for the working tree {gone}, which no longer exists",
            hint=f"run `{git_here(workspace.top)} worktree prune`, then the same command again, or choose another "
            "--tag",
        )


def _rebased_in(workspace: Workspace, branch: str) -> Path | None:
    """Return the working tree in which an unfinished rebase will move `branch`; None if there is none.

    HEAD is detached meanwhile, so that no working tree has the branch checked out.
    """
    for each in _working_trees(workspace):
        folder = workspace.git.asked("-C", str(each.place), "rev-parse", "--absolute-git-dir")
        # With --update-refs, a rebase moves other branches as well.
        for name in ("rebase-merge/head-name", "rebase-apply/head-name", "rebase-merge/update-refs"):
            file = Path(folder or "") / name
            if folder and file.is_file() and f"refs/heads/{branch}" in os.fsdecode(file.read_bytes()).splitlines():
                return each.place
    return None


@dataclass(frozen=True)
class _WorkingTree:
    """One of the repository's working trees.

    Attributes:
        branch: which it has checked out; None for a detached HEAD.
        locked: it may be on a disk that is not here now, and `git worktree prune` keeps it.
    """

    place: Path
    branch: str | None = None
    locked: bool = False


def _working_trees(workspace: Workspace) -> list[_WorkingTree]:
    found: list[_WorkingTree] = []
    said = workspace.git.asked("worktree", "list", "--porcelain", "-z")  # git 2.36 and later
    lines = workspace.git.run("worktree", "list", "--porcelain").split("\n") if said is None else said.split("\0")
    for line in lines:
        if line.startswith("worktree "):
            found.append(_WorkingTree(Path(line.removeprefix("worktree "))))
        elif line.startswith("branch "):
            found[-1] = replace(found[-1], branch=line.removeprefix("branch refs/heads/"))
        elif line == "locked" or line.startswith("locked "):
            found[-1] = replace(found[-1], locked=True)
    return found


def require_unedited(workspace: Workspace, branch: str, files: Mapping[str, str]) -> None:
    """Raise PreconditionError if the checkout of `branch` has changes, or another working tree or a rebase has it.

    An untracked file counts if it is in the way of a new one.

    Args:
        files: path -> text that an interrupted commit may have left in the checkout, which is no change.
    """
    require_not_elsewhere(workspace, branch, "--onto")
    rebased = _rebased_in(workspace, branch)
    if rebased is not None:
        raise PreconditionError(
            f"{branch} is being rebased in {rebased}, which ends only if nothing else moves it",
            hint="finish or abort the rebase, then run the same command again, or choose another --onto",
        )
    if Checkout(workspace).branch != branch:
        return
    require_no_operation(workspace)
    if not _is_left_over(workspace, files):
        require_clean(workspace)
    tracked = workspace.tree(workspace.head)
    for path in sorted(files):
        if workspace.in_repository(path) in tracked:
            continue
        there = _in_the_way(workspace, path, files[path])
        if there is not None:
            raise PreconditionError(
                f"the working tree has another {there}, which git does not track",
                hint="move it away, then run the same command again",
            )


def _require_no_home(workspace: Workspace, fault: str, branch: str, tag: str) -> None:
    """Raise PreconditionError, which begins with `fault`, if another working tree or workspace has the session."""
    other, home = elsewhere(workspace, branch), home_of(workspace, tag)
    if other is not None:
        raise PreconditionError(f"{fault}, and {branch} is checked out in {other}", hint="choose another --tag")
    if home is not None:
        raise PreconditionError(f"{fault}, and session {tag} is in {home}", hint="choose another --tag")


def _exists(place: Path) -> bool:
    """Return whether a working tree still exists, as `git worktree prune` finds out of one that is not locked."""
    return os.path.lexists(place / ".git")


def _in_the_way(workspace: Workspace, path: str, text: str) -> str | None:
    """Return what the working tree has where a new file belongs, or where a folder of it does; else None."""
    file = workspace.folder / path
    for folder in reversed(PurePosixPath(path).parents[:-1]):
        there = workspace.folder / folder
        if there.is_symlink() or (there.exists() and not there.is_dir()):
            return str(folder)
    return path if os.path.lexists(file) and not _would_commit(workspace, path, text) else None


def _is_left_over(workspace: Workspace, files: Mapping[str, str]) -> bool:
    changed = [workspace.inside(name) for name in Checkout(workspace).changes()]
    return bool(changed) and all(
        path is not None and path in files and _would_commit(workspace, path, files[path]) for path in changed
    )


def _would_commit(workspace: Workspace, path: str, text: str) -> bool:
    """Return whether git would commit a file of the working tree as this text, after its filters."""
    file, content = workspace.folder / path, encoded(path, text)
    if file.is_symlink() or not file.is_file():
        return False
    return file.read_bytes() == content or workspace.as_committed(workspace.in_repository(path)) == content
