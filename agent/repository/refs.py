"""The refs of a session: list them, delete them together, and find out whether other branches have its work."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence

from agent.protocol.models import Protocol
from agent.repository.workspace import Workspace

# Subject of the commits of rows that a session adds to its branch, see `Session.record`.
ROW = re.compile(r"results: #(\d+) (keep|discard|crash)")


def refs_below(workspace: Workspace, prefix: str) -> dict[str, str]:
    """Return ref -> hash of all refs in the folder `prefix`."""
    lines = workspace.git.run("for-each-ref", "--format=%(refname) %(objectname)", f"{prefix}/").splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)


def is_branch(workspace: Workspace, name: str) -> bool:
    """Return whether a branch has exactly this name: `main~0` names a commit of one."""
    return workspace.git.asked("show-ref", "--verify", "--quiet", f"refs/heads/{name}") is not None


def branch_named(workspace: Workspace, name: str) -> str | None:
    """Return the branch that a name stands for, which is another one for a symbolic ref; None if it names no branch.

    A move of the symbolic ref moves that branch, also below a checkout that has it.
    """
    if name.startswith("-") or not is_branch(workspace, name):
        return None
    stands_for = workspace.git.asked("symbolic-ref", "--quiet", f"refs/heads/{name}") or f"refs/heads/{name}"
    return stands_for.removeprefix("refs/heads/") if stands_for.startswith("refs/heads/") else None


def is_known(workspace: Workspace, tag: str, branch: str) -> bool:
    """Return whether git has the branch of a session, its own or one of a remote, or commits of its experiments."""
    remotes = workspace.git.run("for-each-ref", "--format=%(refname)", "refs/remotes/").splitlines()
    return (
        is_branch(workspace, branch)
        or any(name.endswith(f"/{branch}") for name in remotes)
        or bool(refs_below(workspace, f"refs/autoresearch/{tag}"))
    )


def delete_refs(workspace: Workspace, refs: Mapping[str, str]) -> None:
    """Delete refs in one transaction, each only if it still has this hash."""
    said = "".join(f"delete {ref} {commit}\n" for ref, commit in refs.items())
    if said:
        workspace.git.fed(["update-ref", "--stdin"], os.fsencode(said), {})


def root_of(workspace: Workspace, commit: str) -> str:
    """Return the hash of the oldest commit in the history of a commit, which all clones of a repository share."""
    return workspace.git.run("rev-list", "--max-parents=0", commit).splitlines()[-1]


def history(workspace: Workspace, commit: str, *without: str) -> list[tuple[str, str, str]]:
    """Return hash, parents and subject of a commit and those before it, the latest first.

    Args:
        without: revisions whose history is left out, or options of git-rev-list(1) that name some.
    """
    lines = workspace.git.run(
        "log", "--no-show-signature", "--topo-order", "--format=%H%x00%P%x00%s", commit, "--not", *without, "--"
    )
    # Not by splitlines: a subject may have characters at which that ends a line.
    return [(each[0], each[1], each[2]) for each in (line.split("\0", 2) for line in lines.split("\n") if line)]


def is_copied(workspace: Workspace, tip: str, commit: str, branches: Sequence[str]) -> bool:
    """Return whether a branch has a commit with the same change as one in the history of `tip`: it was rebased."""
    return any(
        commit not in workspace.git.run("rev-list", "--cherry-pick", "--right-only", f"{branch}...{tip}").split()
        for branch in branches
    )


def except_own(tag: str, branch: str) -> tuple[str, ...]:
    """Return the options of git-rev-list(1) for all refs but those of a session."""
    return f"--exclude=refs/autoresearch/{tag}/*", f"--exclude=refs/heads/{branch}", "--all"


def is_merged(workspace: Workspace, commit: str, branches: Sequence[str], marks: Sequence[Collection[str]]) -> bool:
    """Return whether a branch has a commit, its mutable files, or for each of `marks` one as a line in a message.

    Args:
        branches: the refs of the branches that count.
    """
    if workspace.resolve(commit) is None or not branches:
        return False
    git, files = workspace.git, workspace.files(commit)
    having = git.run("for-each-ref", "--format=%(refname)", f"--contains={commit}", "refs/heads/").splitlines()
    if {*having} & {*branches}:
        return True
    wanted = [f"--grep={mark}" for each in marks for mark in each]
    lines = git.run("log", "--format=%B", "--fixed-strings", *wanted, *branches, "--").splitlines() if wanted else []
    said = {line.strip() for line in lines}  # `git merge --squash` indents the messages of its commits
    if said and all({*each} & said for each in marks):
        return True
    return any(workspace.files(tip) == files for name in branches if (tip := workspace.resolve(name)))


def users_branches(workspace: Workspace, own: str) -> list[str]:
    """Return the refs of all branches but a session's own and those that are named like the branch of a session."""
    names = [ref.removeprefix("refs/heads/") for ref in refs_below(workspace, "refs/heads")]
    return [f"refs/heads/{name}" for name in names if name != own and not is_sessions(workspace.protocol, name)]


def is_sessions(protocol: Protocol, branch: str) -> bool:
    """Return whether a branch is named like those of sessions."""
    before, _, after = protocol.provenance.git_workflow.branch_pattern.partition("<tag>")
    return re.fullmatch(f"{re.escape(before)}[^/]+{re.escape(after)}", branch) is not None and bool(before or after)
